"""The weights file of a set of graphs: written once, every graph's initializers point into it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from soda_runtime.tensors import TensorEntry, read_header
from torch import Tensor

from ..errors import InternalError
from ..trace.onnx import fixed_sizes
from ..trace.tidy import TRANSPOSED
from .tensor_file import TensorSource

WEIGHTS_NAME = "weights.safetensors"
_DTYPES = {
    "F32": ir.DataType.FLOAT, "F16": ir.DataType.FLOAT16, "BF16": ir.DataType.BFLOAT16, "I64": ir.DataType.INT64,
    "I8": ir.DataType.INT8,
}  # fmt: skip
_TORCH = {
    ir.DataType.FLOAT: torch.float32, ir.DataType.FLOAT16: torch.float16, ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.INT64: torch.int64,
}  # fmt: skip
_SCALE, _INT8_MAX = ".scale", 127
_LARGE = 1024  # bytes of a constant, from which it lies in the weights file
ReadWeight = Callable[[str], Tensor]


def weight_sources(
    values: Mapping[ir.Value, str], read: ReadWeight, quantized: Callable[[str], bool]
) -> list[TensorSource]:
    """What a weights file has of a graph's values: value -> name. read: a tensor of the checkpoint, by name. quantized:
    whether a matrix is stored in int8."""
    sources: dict[str, TensorSource] = {}
    for value, name in values.items():
        shape = fixed_sizes(value.shape or ())
        assert value.dtype is not None
        source = TensorSource(name, _TORCH[value.dtype], shape, partial(read_stored, read, name), finite=True)
        parts = quantized_sources(source) if quantized(name) and len(shape) == 2 else (source,)
        sources |= {part.name: part for part in parts}
    return list(sources.values())


def constant_sources(values: Sequence[ir.Value]) -> list[TensorSource]:
    """Large constants that the configuration decides, such as position embeddings."""
    made: dict[str, TensorSource] = {}
    for value in values:
        assert value.dtype is not None
        name, shape = constant_name(value), fixed_sizes(value.shape or ())
        made[name] = TensorSource(name, _TORCH[value.dtype], shape, partial(_as_tensor, value))
    return list(made.values())


def _as_tensor(value: ir.Value) -> Tensor:
    assert value.const_value is not None
    array = value.const_value.numpy()
    return torch.from_numpy(np.array(array, np.float32 if array.dtype.kind not in "iub" else array.dtype))


def read_stored(read: ReadWeight, name: str) -> Tensor:
    """A tensor as the weights file has it. name: in that file."""
    return read(name.removesuffix(TRANSPOSED)).t() if name.endswith(TRANSPOSED) else read(name)


def is_large(value: ir.Value) -> bool:
    """Whether a constant lies in the weights file and not in each graph."""
    constant = value.const_value
    return constant is not None and constant.nbytes >= _LARGE and value.dtype in _TORCH


def constant_name(value: ir.Value) -> str:
    """A large constant's name, by its content."""
    assert value.const_value is not None
    return f"constants.{hashlib.sha256(value.const_value.tobytes()).hexdigest()[:16]}"


def quantized_sources(source: TensorSource) -> tuple[TensorSource, TensorSource]:
    """A matrix [in, out] as int8, and `<name>.scale` [out]: symmetric, each output channel by its largest value."""

    def scale() -> Tensor:
        largest = source.make().float().abs().amax(dim=0)
        return torch.where(largest > 0, largest / _INT8_MAX, 1.0).to(source.dtype)

    def values() -> Tensor:
        return (source.make().float() / scale().float()).round().clamp(-_INT8_MAX, _INT8_MAX).to(torch.int8)

    return (
        TensorSource(source.name, torch.int8, source.shape, values),
        TensorSource(source.name + _SCALE, source.dtype, source.shape[1:], scale, source.finite),
    )


class WeightsFile:
    """Hands out initializers that refer to tensors of a weights file by offset and length."""

    def __init__(self, folder: Path, name: str = WEIGHTS_NAME) -> None:
        self._folder, self.name = folder, name
        self._entries: dict[str, TensorEntry] = read_header(folder / name)

    def scale_of(self, name: str) -> str:
        """The name of a quantized tensor's scale, "" for a tensor that is not quantized."""
        return name + _SCALE if self._entries[name].dtype == "I8" else ""

    def initializer(self, name: str) -> ir.Value:
        """A new graph initializer for tensor `name`."""
        if name not in self._entries:
            raise InternalError(f"{self._folder / self.name} has no tensor {name}")
        entry = self._entries[name]
        tensor = ir.ExternalTensor(
            self.name, entry.begin, entry.end - entry.begin, _DTYPES[entry.dtype], shape=ir.Shape(entry.shape),
            name=name, base_dir=str(self._folder),
        )  # fmt: skip
        return ir.Value(
            name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(entry.shape), const_value=tensor
        )


def total_bytes(sources: Sequence[TensorSource]) -> int:
    """Bytes of all tensors."""
    return sum(math.prod(source.shape) * source.dtype.itemsize for source in sources)
