"""ONNX Runtime, on the CPU or with its CUDA provider. Every address is bound once through IOBinding."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError
from ..signature import Port, Signature
from . import DeviceOptions, Memory, View
from .host import HostMemory

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_DTYPES = {
    "tensor(float)": "float32", "tensor(int64)": "int64", "tensor(float16)": "float16", "tensor(bfloat16)": "bfloat16"
}  # fmt: skip
_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16: numpy has no such type


class CudaMemory:
    """A zeroed block in device memory, owned by an OrtValue."""

    def __init__(self, ort: Any, nbytes: int) -> None:
        self.nbytes = nbytes
        self._value = ort.OrtValue.ortvalue_from_numpy(np.zeros(nbytes, np.uint8), "cuda", 0)
        self.address = int(self._value.data_ptr())

    def write(self, array: NDArray[Any]) -> None:
        """Copy a host array of exactly nbytes to the device."""
        self._value.update_inplace(np.ascontiguousarray(array).reshape(-1).view(np.uint8))

    def read(self) -> NDArray[Any]:
        """Copy the block to the host, uint8 [nbytes]."""
        result: NDArray[Any] = self._value.numpy()
        return result


class OrtEngine:
    """One ONNX Runtime session."""

    def __init__(self, session: Any, device: str, path: Path) -> None:
        self._session, self._device, self._path = session, device, path

    def bind(
        self, label: str, inputs: Mapping[str, View], outputs: Mapping[str, View]
    ) -> Callable[[], None]:
        binding = self._session.io_binding()
        try:
            for name, view in inputs.items():
                binding.bind_input(name, self._device, 0, _element_type(view.dtype), view.shape, _address(view))
            for name, view in outputs.items():
                binding.bind_output(name, self._device, 0, _element_type(view.dtype), view.shape, _address(view))
        except Exception as error:
            raise EngineError(f"{label}: {self._path}: ONNX Runtime refuses a buffer: {error}") from None
        run, path = self._session.run_with_iobinding, self._path
        memories = tuple(view.memory for view in (*inputs.values(), *outputs.values()))

        def call(_keep_alive: tuple[Memory, ...] = memories) -> None:
            try:
                run(binding)
            except Exception as error:
                raise EngineError(f"{label}: {path}: ONNX Runtime failed: {error}") from None

        return call


class OrtBackend:
    """Opens sessions that share nothing but the weights file's pages."""

    def __init__(self, ort: Any, device: str, threads: int) -> None:
        self._ort, self._device, self._threads = ort, device, threads

    def allocate(self, nbytes: int) -> Memory:
        return HostMemory(nbytes) if self._device == "cpu" else CudaMemory(self._ort, nbytes)

    def open_engine(self, path: Path, signature: Signature, once: bool = False) -> OrtEngine:
        options = self._options(once)
        try:
            session = self._ort.InferenceSession(str(path), sess_options=options, providers=[_PROVIDERS[self._device]])
        except Exception as error:
            raise EngineError(f"{path}: ONNX Runtime {self._ort.__version__} cannot open it: {error}") from None
        _check_ports(path, "input", {p.name: p for p in session.get_inputs()}, signature.inputs)
        _check_ports(path, "output", {p.name: p for p in session.get_outputs()}, signature.outputs)
        return OrtEngine(session, self._device, path)

    def _options(self, once: bool) -> Any:
        options = self._ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads, options.inter_op_num_threads = self._threads, 1
        # each session has its own threads; those of the last step must not spin on the cores of the next one
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if once:  # a second, repacked copy of a text encoder's weights would not pay
            options.add_session_config_entry("session.disable_prepacking", "1")
        return options


def open_backend(device: str, threads: int, options: DeviceOptions = DeviceOptions()) -> OrtBackend:
    """ONNX Runtime on `device`: cpu or cuda."""
    if device not in _PROVIDERS:
        raise EngineError(f"device {device!r}: ONNX Runtime runs on {' or '.join(_PROVIDERS)}")
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if _is_installed(name)]
    if len(installed) == 2:
        raise EngineError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files; "
            "run `pip uninstall -y onnxruntime onnxruntime-gpu`, then install the one you want"
        )
    try:
        import onnxruntime as ort
    except ImportError:
        raise EngineError("onnxruntime is not installed; run `pip install soda-runtime[ort]`") from None
    if _PROVIDERS[device] not in ort.get_available_providers():
        raise EngineError(f"this ONNX Runtime has no {_PROVIDERS[device]}; run `pip install soda-runtime[ort-gpu]`")
    return OrtBackend(ort, device, threads)


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _element_type(dtype: str) -> Any:
    return _BFLOAT16 if dtype == "bfloat16" else np.dtype(dtype)


def _address(view: View) -> int:
    memory: Any = view.memory
    return int(memory.address) + view.offset


def _check_ports(path: Path, kind: str, found: Mapping[str, Any], expected: Mapping[str, Port]) -> None:
    if found.keys() != expected.keys():
        odd = sorted(found.keys() ^ expected.keys())[0]
        raise EngineError(f"{path}: {kind} {odd!r} is not in both the engine and the manifest; rebuild the bundle")
    for name, port in expected.items():
        shape = tuple(found[name].shape)
        matches = len(shape) == len(port.shape) and all(
            isinstance(wanted, str) or wanted == given for wanted, given in zip(port.shape, shape, strict=True)
        )
        if not matches or _DTYPES.get(found[name].type) != port.dtype:
            raise EngineError(
                f"{path}: {kind} {name!r} is {found[name].type} {list(shape)}, the manifest says {port.dtype} "
                f"{list(port.shape)}; rebuild the bundle"
            )
