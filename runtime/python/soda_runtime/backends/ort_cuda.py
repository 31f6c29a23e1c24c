"""ONNX Runtime's CUDA and TensorRT providers: IOBinding on our device memory and stream, weights shared by sessions.

Recording is the sessions' own: one that is run while somebody else records its stream may end the process. Not yet run
on a GPU: a stand-in that computes on the CPU checks order, addresses and lifetimes.
"""

from __future__ import annotations

import contextlib
import io
import re
import threading
import warnings
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from ..errors import EngineError
from ..remembered import cache_folder
from ..replaced import HostTensor
from ..signature import Signature
from ..tensors import read_header
from . import NO_TENSORS, DeviceOptions, Tensors, View
from .cuda import Cuda, DeviceMemory
from .loop import Loop
from .ort_engine import OrtEngine, ports_of, replace_weights
from .ort_session import BoundSession
from .ports import check_ports

_ELEMENT_TYPES = {"F32": 1, "F16": 10, "BF16": 16, "I64": 7}  # onnx.TensorProto's
_LOCATION = b"\n\x08location\x12"  # StringStringEntryProto: key, and the value's tag
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_LARGE_BYTES = 1 << 10  # smaller weights are copied per session, which costs less than keeping track of them
_CUDA = "CUDAExecutionProvider"
_EXACT = {"arena_extend_strategy": "kSameAsRequested"}  # each session has an arena; by default they grow by doubling


class OrtCudaBackend:
    """Sessions on one device that put their work into one stream and take their weights from one copy."""

    noise_bytes = 256 << 20
    row_bytes = 1  # its kernels take any address that the type allows

    def __init__(self, ort: Any, provider: str, ordinal: int, options: DeviceOptions) -> None:
        self._ort, self._provider = ort, provider
        self.cuda = Cuda(ordinal, options.stream)
        self._weights: dict[Path, dict[str, Any]] = {}  # weights file -> name -> OrtValue on the device
        self._replaced: WeakKeyDictionary[HostTensor, Any] = WeakKeyDictionary()
        self._lock = threading.Lock()
        self._graph_ids = count(1)
        self._records = options.cuda_graph == "on"
        if self._records and provider != _CUDA:
            warnings.warn(f"no CUDA graph: ONNX Runtime's {provider} is not recorded", RuntimeWarning, stacklevel=2)
            self._records = False
        prepare(ort)

    def allocate(self, nbytes: int) -> DeviceMemory:
        return self.cuda.allocate(nbytes)

    def why_fixed_weights(self, folder: Path) -> str:
        if self._provider == _CUDA:
            return ""
        return "ONNX Runtime's TensorRT provider builds weights into its engines; use device cuda, or bake the LoRA in"

    def open_engine(
        self, path: Path, signature: Signature, once: bool = False, weights: str = "", replaced: Tensors = NO_TENSORS
    ) -> OrtEngine:
        """Open one session. Its own arena grows as it needs; the first run of a shape allocates."""
        options = self._ort.SessionOptions()
        options.log_severity_level = 3
        has_half = any(port.dtype == "float16" for port in (*signature.inputs.values(), *signature.outputs.values()))
        try:
            own = replace_weights(self._ort, options, path, replaced)
            own = {name: self._own(path, replaced[name]) for name in own}
            for name, value in {**self._shared_weights(path, weights), **own}.items():
                options.add_initializer(name, value)  # used in place; one that the graph does not have is not looked at
            session, records = self._open(path, options, has_half, self._records and not once)
        except EngineError:
            raise
        except Exception as error:
            raise EngineError(f"{path}: ONNX Runtime {self._ort.__version__} cannot open it: {error}") from None
        self._check_provider(path, session)
        check_ports(path, "input", ports_of(session.get_inputs()), signature.inputs)
        check_ports(path, "output", ports_of(session.get_outputs()), signature.outputs)
        return OrtCudaEngine(self.cuda, self._ort, session, path, records)

    def _open(self, path: Path, options: Any, has_half: bool, records: bool) -> tuple[Any, bool]:
        """A session, and whether it can record itself: one with work on the host cannot."""
        if records:
            try:
                return self._session(path, options, self._providers(has_half, "1")), True
            except Exception as error:
                why = " ".join(str(error).split())[:300]
                warnings.warn(f"no CUDA graph of {path.name}: {why}", RuntimeWarning, stacklevel=4)
        return self._session(path, options, self._providers(has_half, "0")), False

    def _session(self, path: Path, options: Any, providers: list[Any]) -> Any:
        return self._ort.InferenceSession(str(path), sess_options=options, providers=providers)

    def _check_provider(self, path: Path, session: Any) -> None:
        """ONNX Runtime falls back to the CPU where a provider's libraries are missing; our addresses are not for it."""
        if self._provider not in session.get_providers():
            raise self._not_loaded(path)

    def _not_loaded(self, path: Path) -> EngineError:
        return EngineError(
            f"{path}: ONNX Runtime {self._ort.__version__} cannot load its {self._provider}: its CUDA or cuDNN, or "
            "TensorRT, is missing or of another version; run `pip install soda-runtime[ort-gpu]`"
        )

    def loop(self, calls: list[Callable[[], None]]) -> Loop:
        """The calls one after another. Where it is asked for, sessions first record their part of it, each step one
        graph, in a run whose results nobody wants."""
        steps = [call for call in calls if isinstance(call, BoundSession)]
        loop = Loop(self.cuda, calls, "off", lambda: 0)
        recorded = [step.record(next(self._graph_ids)) for step in steps]
        if any(recorded):
            try:
                loop()
            except EngineError as error:
                warnings.warn(f"no CUDA graphs, steps are launched one by one: {error}", RuntimeWarning, stacklevel=2)
                for step in steps:
                    step.forget()
        return loop

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

    @property
    def activation_bytes(self) -> int:
        """0: what sessions allocate for themselves is not told."""
        return 0

    def free_bytes(self) -> int:
        """Free bytes on the device, as its driver counts them."""
        return int(self.cuda.call("cudaMemGetInfo"))

    def _providers(self, has_half: bool, records: str) -> list[Any]:
        device = {"device_id": str(self.cuda.device)}
        stream = {"has_user_compute_stream": "1", "user_compute_stream": str(self.cuda.stream)}
        cuda = (_CUDA, {**device, **stream, "use_tf32": "0", "enable_cuda_graph": records, **_EXACT})
        if self._provider == _CUDA:
            return [cuda]
        own = _engine_cache()
        if has_half:  # else it would compute in fp32
            own["trt_fp16_enable"] = "1"
        return [(self._provider, {**device, **stream, **own}), cuda]

    def _shared_weights(self, graph: Path, name: str) -> dict[str, Any]:
        """The weights that a graph points to, on the device once whatever the number of sessions.

        ONNX Runtime's TensorRT provider builds weights into its engines and takes none.
        """
        if self._provider != _CUDA:
            return {}
        name = name or weights_file(graph.read_bytes())
        if not name:
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
                made[name] = self._on_device(path, entry.dtype, entry.shape, content[entry.begin : entry.end])
        return made

    def _on_device(self, path: Path, dtype: str, shape: tuple[int, ...], content: Any) -> Any:
        """A tensor of a weights file as an OrtValue in memory of its own on the device."""
        kind = _ELEMENT_TYPES[dtype]
        try:
            value = self._ort.OrtValue.ortvalue_from_shape_and_type(list(shape), kind, "cuda", self.cuda.device)
        except RuntimeError as error:
            raise self._not_loaded(path) if "not available" in str(error) else error from None
        self.cuda.copy_in(int(value.data_ptr()), content)
        return value

    def _own(self, path: Path, tensor: HostTensor) -> Any:
        """A replaced tensor on the device, once for all engines that take it."""
        with self._lock:
            if tensor not in self._replaced:
                self._replaced[tensor] = self._on_device(path, tensor.dtype, tensor.shape, tensor.content)
            return self._replaced[tensor]


def _engine_cache() -> dict[str, str]:
    """Options with which the TensorRT provider keeps its engines, where there is a folder for them."""
    base = cache_folder()
    if base is None:
        return {}
    folder = base / "ort-tensorrt"
    try:
        folder.mkdir(parents=True, exist_ok=True)  # the provider makes the last folder only
    except OSError:
        return {}
    return {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(folder), "trt_timing_cache_enable": "1"}


def prepare(ort: Any) -> None:
    """Load the CUDA that pip has installed, and let weights take the memory that they need.

    Device OrtValues lie in an arena of the process, which would grow by doubling; the call that changes that warns that
    it may go one day, for which the log is quiet meanwhile.
    """
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find; opening an engine says so
            ort.preload_dlls()
    binding: Any = getattr(getattr(ort, "capi", None), "_pybind_state", None)
    if hasattr(binding, "set_arena_extend_strategy"):
        ort.set_default_logger_severity(3)
        binding.set_arena_extend_strategy(binding.ArenaExtendStrategy.kSameAsRequested)
        ort.set_default_logger_severity(2)


def weights_file(graph: bytes) -> str:
    """The file that an ONNX graph's first external tensor lies in, "" where it has none: bundles before version 5 with
    several weights files do not say which.

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

    def __init__(self, cuda: Cuda, ort: Any, session: Any, path: Path, records: bool) -> None:
        super().__init__(session, "cuda", path, cuda.device)
        self._cuda, self._ort, self._records = cuda, ort, records

    def bind(
        self, label: str, inputs: Mapping[str, View], outputs: Mapping[str, View]
    ) -> Callable[[], None]:
        binding = self.make_binding(label, inputs, outputs)
        memories = tuple(view.memory for view in (*inputs.values(), *outputs.values()))
        return BoundSession(
            self._cuda, self._ort, self._session, binding, f"{label}: {self._path}", self._records, memories
        )
