"""Open a step program with the model's output, before guidance and sampler, as one more output of its engine."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx
from soda_runtime.backends import NO_TENSORS, Backend, Engine, Memory, Tensors, View
from soda_runtime.backends.openvino import OpenVinoBackend
from soda_runtime.backends.ort import OrtBackend
from soda_runtime.signature import ITEM_BYTES, ROWS_AXIS, STATE, Port, Signature

from ..errors import BundleError
from ..export.steps import PREDICTION

_DTYPES: dict[int, str] = {
    onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.FLOAT16: "float16", onnx.TensorProto.BFLOAT16: "bfloat16",
}  # fmt: skip


def can_tap(backend: Backend) -> bool:
    """Whether programs of this backend can be given another output: its files are graphs, opened on the host."""
    return type(backend) in _OPENERS


class TappedEngine:
    """An engine that also writes its prediction, [rows, *shape]."""

    def __init__(self, engine: Engine, port: Port, rows: int, block: Callable[[Memory, int], Memory]) -> None:
        """rows: of each sample. block(state, bytes): where it goes of a step that begins with that state."""
        self._engine, self._port, self._rows, self._block = engine, port, rows, block

    def bind(
        self, label: str, inputs: Mapping[str, View], outputs: Mapping[str, View]
    ) -> Callable[[], None]:
        shape = self._port.at({ROWS_AXIS: inputs[STATE].shape[1] * self._rows})
        memory = self._block(inputs[STATE].memory, math.prod(shape) * ITEM_BYTES[self._port.dtype])
        view = View(memory, 0, self._port.dtype, shape)
        return self._engine.bind(label, inputs, {**outputs, PREDICTION: view})


class TappingBackend:
    """A backend whose step programs have a prediction; other programs are opened as they are."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def allocate(self, nbytes: int) -> Memory:
        return self._backend.allocate(nbytes)

    def why_fixed_weights(self, folder: Path) -> str:
        return self._backend.why_fixed_weights(folder)

    def open_engine(
        self, path: Path, signature: Signature, once: bool = False, weights: str = "", replaced: Tensors = NO_TENSORS
    ) -> Engine:
        if PREDICTION not in signature.outputs:
            return self._backend.open_engine(path, signature, once, weights, replaced)
        return _OPENERS[type(self._backend)](self._backend, path, signature, replaced)


def prediction_port(path: Path, shape: tuple[int, ...]) -> Port:
    """The prediction of a step program's graph. shape: of one row. Raises BundleError."""
    return Port(_DTYPES[_read_graph(path)[1]], (ROWS_AXIS, *shape))


def _read_graph(path: Path) -> tuple[onnx.ModelProto, int]:
    """A graph without its weights, and ONNX's type of its prediction."""
    model = onnx.load(str(path), load_external_data=False)
    found = [info for info in model.graph.value_info if info.name == PREDICTION]
    if not found or found[0].type.tensor_type.elem_type not in _DTYPES:
        raise BundleError(f"{path}: does not say what the prediction is; build the bundle again")
    return model, found[0].type.tensor_type.elem_type


def _open_ort(backend: OrtBackend, path: Path, signature: Signature, replaced: Tensors) -> Engine:
    """The graph goes in as bytes; its weights are mapped from beside it as ever."""
    model, kind = _read_graph(path)
    shape = signature.outputs[PREDICTION].shape
    model.graph.output.append(onnx.helper.make_tensor_value_info(PREDICTION, kind, shape))
    return backend.open_graph(model.SerializeToString(), path, signature, replaced)


def _open_openvino(backend: OpenVinoBackend, path: Path, signature: Signature, replaced: Tensors) -> Engine:
    return backend.open_tapped(path, signature, (PREDICTION,), replaced)


_OPENERS: dict[type, Callable[[Any, Path, Signature, Tensors], Engine]] = {
    OrtBackend: _open_ort, OpenVinoBackend: _open_openvino
}  # fmt: skip
