"""A session of ONNX Runtime: addresses bound once, its ports, and weights in the place of its graph's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import EngineError
from ..replaced import NUMPY_DTYPES, HostTensor
from . import Tensors, View

_DTYPES = {
    "tensor(float)": "float32", "tensor(int64)": "int64", "tensor(float16)": "float16", "tensor(bfloat16)": "bfloat16"
}  # fmt: skip
_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16: numpy has no such type


class OrtEngine:
    """One ONNX Runtime session. held: what it takes weights from."""

    def __init__(
        self, session: Any, device: str, path: Path, ordinal: int = 0, held: tuple[Any, ...] = ()
    ) -> None:
        self._session, self._path, self._held = session, path, held
        self._device = (device, ordinal)

    def make_binding(self, label: str, inputs: Mapping[str, View], outputs: Mapping[str, View]) -> Any:
        """An IOBinding of the session with all addresses set."""
        binding = self._session.io_binding()
        try:
            for name, view in inputs.items():
                binding.bind_input(name, *self._device, _element_type(view.dtype), view.shape, _address(view))
            for name, view in outputs.items():
                binding.bind_output(name, *self._device, _element_type(view.dtype), view.shape, _address(view))
        except Exception as error:
            raise EngineError(f"{label}: {self._path}: ONNX Runtime refuses a buffer: {error}") from None
        return binding

    def bind(
        self, label: str, inputs: Mapping[str, View], outputs: Mapping[str, View]
    ) -> Callable[[], None]:
        binding = self.make_binding(label, inputs, outputs)
        run, path = self._session.run_with_iobinding, self._path
        memories = tuple(view.memory for view in (*inputs.values(), *outputs.values()))

        def call(_keep_alive: tuple[Any, ...] = (*memories, self._held)) -> None:
            try:
                run(binding)
            except Exception as error:
                raise EngineError(f"{label}: {path}: ONNX Runtime failed: {error}") from None

        return call


def _element_type(dtype: str) -> Any:
    return _BFLOAT16 if dtype == "bfloat16" else np.dtype(dtype)


def _address(view: View) -> int:
    return view.memory.address + view.offset


def replace_weights(ort: Any, options: Any, path: Path, replaced: Tensors) -> dict[str, Any]:
    """Have the graph at `path` opened with other weights, and give these: name -> OrtValue in the tensor's memory.

    They take their place before the graph is optimized, for which ONNX Runtime copies them. What add_initializer gives
    comes after that, and optimizers would have read the file's.
    """
    graph = path.read_bytes() if replaced else b""
    values = {name: _value(ort, tensor) for name, tensor in replaced.items() if _as_initializer(name) in graph}
    if values:
        options.add_external_initializers(list(values), list(values.values()))
    return values


def _as_initializer(name: str) -> bytes:
    """A name as only a tensor of an ONNX graph has it: field 8 of TensorProto. To find it needs no parser."""
    text = name.encode()
    length = bytes([len(text)]) if len(text) < 0x80 else bytes([len(text) & 0x7F | 0x80, len(text) >> 7])
    return b"\x42" + length + text


def _value(ort: Any, tensor: HostTensor) -> Any:
    if tensor.dtype == "BF16":
        words = tensor.content.view(np.uint16).reshape(tensor.shape)
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(words, _BFLOAT16)
    return ort.OrtValue.ortvalue_from_numpy(tensor.content.view(NUMPY_DTYPES[tensor.dtype]).reshape(tensor.shape))


def ports_of(values: Sequence[Any]) -> dict[str, tuple[str, Sequence[int | str | None]]]:
    """A session's inputs or outputs, as `check_ports` takes them."""
    return {value.name: (_DTYPES.get(value.type, value.type), value.shape) for value in values}
