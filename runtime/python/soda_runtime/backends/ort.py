"""ONNX Runtime on the CPU; on a GPU ort_cuda.py."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path
from typing import Any

from ..errors import EngineError
from ..policy import SIGNAL
from ..signature import Signature
from . import NO_TENSORS, Backend, DeviceOptions, Memory, Tensors
from .host import HostMemory
from .ort_engine import OrtEngine, ports_of, replace_weights
from .ports import check_ports

_PROVIDERS = {
    "cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"
}  # fmt: skip
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"


class OrtBackend:
    """Opens sessions that share nothing but the weights file's pages."""

    def __init__(self, ort: Any, threads: int, share_weights: bool) -> None:
        self._ort, self._threads, self._share_weights = ort, threads, share_weights

    def allocate(self, nbytes: int) -> Memory:
        return HostMemory(nbytes)

    def why_fixed_weights(self, folder: Path) -> str:
        return ""

    def open_engine(
        self, path: Path, signature: Signature, once: bool = False, weights: str = "", replaced: Tensors = NO_TENSORS
    ) -> OrtEngine:
        # to wake another thread for a policy's signals would take longer than they do
        options = self._options(once, 1 if SIGNAL in signature.outputs else self._threads)
        return self._open(str(path), options, path, signature, replaced)

    def open_graph(
        self, graph: bytes, path: Path, signature: Signature, replaced: Tensors = NO_TENSORS
    ) -> OrtEngine:
        """Open a graph that was made of the one in `path`, beside which its weights lie."""
        options = self._options(False, self._threads)
        options.add_session_config_entry(_WEIGHTS_FOLDER, str(path.parent))
        return self._open(graph, options, path, signature, replaced)

    def _open(
        self, graph: str | bytes, options: Any, path: Path, signature: Signature, replaced: Tensors
    ) -> OrtEngine:
        held = replace_weights(self._ort, options, path, replaced)
        try:
            for name, value in held.items():  # shared by all engines
                options.add_initializer(name, value)
            session = self._ort.InferenceSession(graph, sess_options=options, providers=[_PROVIDERS["cpu"]])
        except Exception as error:
            raise EngineError(f"{path}: ONNX Runtime {self._ort.__version__} cannot open it: {error}") from None
        check_ports(path, "input", ports_of(session.get_inputs()), signature.inputs)
        check_ports(path, "output", ports_of(session.get_outputs()), signature.outputs)
        return OrtEngine(session, "cpu", path, held=tuple(held.values()))

    def _options(self, once: bool, threads: int) -> Any:
        options = self._ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        # each session has its own threads; those of the last step must not spin on the cores of the next one
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if once or self._share_weights:  # a repacked copy of a text encoder's weights would not pay
            options.add_session_config_entry("session.disable_prepacking", "1")
        if self._share_weights:  # the level above lays out convolutions' weights anew and keeps fp16 ones in fp32, too
            options.graph_optimization_level = self._ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        return options


def open_backend(device: str, threads: int, weights: str, options: DeviceOptions) -> Backend:
    """ONNX Runtime on `device`: cpu, or cuda or tensorrt (its provider of that name), which may end in :N.

    weights: on the CPU, `shared` maps the weights file once for all engines; on CUDA they always share one copy.
    """
    kind, _, ordinal = device.partition(":")
    if kind not in _PROVIDERS or not (ordinal or "0").isdecimal() or (kind == "cpu" and ordinal):
        raise EngineError(f"device {device!r}: ONNX Runtime runs on {', '.join(_PROVIDERS)}")
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if _is_installed(name)]
    if len(installed) == 2:
        raise EngineError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files; "
            "run `pip uninstall -y onnxruntime onnxruntime-gpu`, then install the one you want"
        )
    ort = _import_quietly()
    if _PROVIDERS[kind] not in ort.get_available_providers():
        raise EngineError(f"this ONNX Runtime has no {_PROVIDERS[kind]}; run `pip install soda-runtime[ort-gpu]`")
    if kind == "cpu":
        return OrtBackend(ort, threads, weights == "shared")
    from .ort_cuda import OrtCudaBackend

    return OrtCudaBackend(ort, _PROVIDERS[kind], int(ordinal or 0), options)


def _import_quietly() -> Any:
    """ONNX Runtime without its telemetry, which nobody asked for here; a variable that the user has set stays.

    From 1.32 on it starts when the library is loaded, with a thread and files under the user's home.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime as ort
    except ImportError:
        raise EngineError("onnxruntime is not installed; run `pip install soda-runtime[ort]`") from None
    if os.environ["ORT_DISABLE_TELEMETRY"] == "1" and hasattr(ort, "disable_telemetry_events"):
        ort.disable_telemetry_events()
    return ort


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
