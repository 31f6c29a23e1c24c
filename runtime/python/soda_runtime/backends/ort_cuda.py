"""ONNX Runtime's CUDA and TensorRT providers: IOBinding on our device memory and stream, weights shared by sessions.

Not yet run on a GPU: a stand-in that computes on the CPU checks order, addresses and lifetimes.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import EngineError
from ..remembered import cache_folder
from ..signature import Signature
from ..tensors import read_header
from . import DeviceOptions, View
from .cuda import Cuda, DeviceMemory
from .loop import GraphMode, Loop
from .ort import OrtEngine, ports_of
from .ports import check_ports

_ELEMENT_TYPES = {"F32": 1, "F16": 10, "BF16": 16, "I64": 7}  # onnx.TensorProto's
_LOCATION = b"\n\x08location\x12"  # StringStringEntryProto: key, and the value's tag
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_LARGE_BYTES = 1 << 10  # smaller weights are copied per session, which costs less than keeping track of them


class OrtCudaBackend:
    """Sessions on one device that put their work into one stream and take their weights from one copy."""

    noise_bytes = 256 << 20
    row_bytes = 1  # its kernels take any address that the type allows

    def __init__(self, ort: Any, provider: str, ordinal: int, options: DeviceOptions) -> None:
        self._ort, self._provider, self._options = ort, provider, options
        self.cuda = Cuda(ordinal, options.stream)
        self._weights: dict[Path, dict[str, Any]] = {}  # weights file -> name -> OrtValue on the device
        self._lock = threading.Lock()
        self._run_options = ort.RunOptions()
        self._run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def allocate(self, nbytes: int) -> DeviceMemory:
        return self.cuda.allocate(nbytes)

    def open_engine(self, path: Path, signature: Signature, once: bool = False) -> OrtEngine:
        """Open one session. Its own arena grows as it needs; the first run of a shape allocates."""
        options = self._ort.SessionOptions()
        options.log_severity_level = 3
        try:
            for name, value in self._shared_weights(path).items():
                options.add_initializer(name, value)  # used in place; one that the graph does not have is not looked at
            session = self._ort.InferenceSession(str(path), sess_options=options, providers=self._providers())
        except EngineError:
            raise
        except Exception as error:
            raise EngineError(f"{path}: ONNX Runtime {self._ort.__version__} cannot open it: {error}") from None
        check_ports(path, "input", ports_of(session.get_inputs()), signature.inputs)
        check_ports(path, "output", ports_of(session.get_outputs()), signature.outputs)
        return OrtCudaEngine(self.cuda, session, self._run_options, path)

    def loop(self, calls: list[Callable[[], None]]) -> Loop:
        """The calls as one. They are recorded only where that is asked for: a session that still allocates while it is
        recorded spoils the recording."""
        mode: GraphMode = "on" if self._options.cuda_graph == "on" else "off"
        return Loop(self.cuda, calls, mode, lambda: 0)

    def wait(self) -> None:
        """Wait for everything in the stream."""
        with self.cuda.lock:
            self.cuda.use_device()
            self.cuda.synchronize()

    def close(self) -> None:
        """Wait for the device and let go of the weights."""
        self.cuda.synchronize()
        self._weights.clear()
        self.cuda.close()

    def _providers(self) -> list[Any]:
        device = {"device_id": str(self.cuda.device)}
        stream = {"has_user_compute_stream": "1", "user_compute_stream": str(self.cuda.stream)}
        cuda = ("CUDAExecutionProvider", {**device, **stream, "use_tf32": "0"})
        if self._provider == "CUDAExecutionProvider":
            return [cuda]
        folder = cache_folder() / "ort-tensorrt"
        cache = {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(folder), "trt_timing_cache_enable": "1"}
        return [(self._provider, {**device, **stream, **cache}), cuda]

    def _shared_weights(self, graph: Path) -> dict[str, Any]:
        """The weights that a graph points to, on the device once whatever the number of sessions.

        ONNX Runtime's TensorRT provider builds weights into its engines and takes none.
        """
        name = weights_file(graph.read_bytes())
        if self._provider != "CUDAExecutionProvider" or not name:
            return {}
        file = graph.parent / name
        with self._lock:
            if file not in self._weights:
                self._weights[file] = self._load(file)
            return self._weights[file]

    def _load(self, path: Path) -> dict[str, Any]:
        content, made = np.memmap(path, np.uint8, "r"), {}
        for name, entry in read_header(path).items():
            if entry.end - entry.begin >= _LARGE_BYTES and entry.dtype in _ELEMENT_TYPES:
                kind, shape = _ELEMENT_TYPES[entry.dtype], list(entry.shape)
                made[name] = self._ort.OrtValue.ortvalue_from_shape_and_type(shape, kind, "cuda", self.cuda.device)
                self.cuda.copy_in(int(made[name].data_ptr()), content[entry.begin : entry.end])
        return made


def weights_file(graph: bytes) -> str:
    """The file that an ONNX graph's first external tensor lies in, "" where it has none.

    The pair (location, name) as protobuf writes it; to find it needs no parser of ONNX, which the runtime lacks.
    """
    begin = graph.find(_LOCATION)
    if begin < 0:
        return ""
    begin += len(_LOCATION)
    name = graph[begin + 1 : begin + 1 + graph[begin]].decode("ascii", "replace") if begin < len(graph) else ""
    return name if _NAME.fullmatch(name) else ""


class OrtCudaEngine(OrtEngine):
    """One session; a call puts its work into the backend's stream and does not wait for it."""

    def __init__(self, cuda: Cuda, session: Any, run_options: Any, path: Path) -> None:
        super().__init__(session, "cuda", path, cuda.device)
        self._cuda, self._run_options = cuda, run_options

    def bind(
        self, label: str, inputs: Mapping[str, View], outputs: Mapping[str, View]
    ) -> Callable[[], None]:
        binding = self.make_binding(label, inputs, outputs)
        cuda, run, options = self._cuda, self._session.run_with_iobinding, self._run_options
        memories = tuple(view.memory for view in (*inputs.values(), *outputs.values()))

        def call(_keep_alive: object = memories) -> None:
            with cuda.lock:
                cuda.use_device()
                try:
                    run(binding, options)
                except Exception as error:
                    raise EngineError(f"{label}: {self._path}: ONNX Runtime failed: {error}") from None

        return call
