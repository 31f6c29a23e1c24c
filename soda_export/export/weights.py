"""The weights file of a set of graphs: written once, every graph's initializers point into it."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import torch
from soda_runtime.tensors import TensorEntry, read_header
from torch import Tensor, nn

from ..errors import InternalError
from ..models.denoiser import Denoiser
from .tensor_file import TensorSource, write_tensors
from .trace import named_weights

WEIGHTS_NAME = "weights.safetensors"
_DTYPES = {
    "F32": ir.DataType.FLOAT, "F16": ir.DataType.FLOAT16, "BF16": ir.DataType.BFLOAT16, "I64": ir.DataType.INT64,
    "I8": ir.DataType.INT8,
}  # fmt: skip
_SCALE, _INT8_MAX = ".scale", 127


def layer_prefix(layer: int, module: str) -> str:
    """Where a module's weights lie in the file's names."""
    return f"layers.{layer}.{module}."


def owned_modules(denoiser: Denoiser) -> dict[str, nn.Module]:
    """Every piece of a denoiser that has weights, by the prefix of its names in the file."""
    spec = denoiser.spec
    owners = {"conditioning.": denoiser.conditioning, "embed.": denoiser.embed, "head.": denoiser.head}
    if denoiser.context is not None:
        owners["context.caption."] = denoiser.context.caption
        owners |= {f"context.{name}.": module for name, module in denoiser.context.projections.items()}
    for layer in range(spec.num_layers):
        owners |= {layer_prefix(layer, name): denoiser.module(layer, name) for name in spec.modules}
    return owners


def write_weights(
    denoiser: Denoiser, folder: Path, dtype: torch.dtype = torch.float32, int8: bool = False
) -> None:
    """Write all weights of a denoiser to WEIGHTS_NAME in `folder`, floating ones as `dtype`, one at a time.

    int8: the matrices of the layers are quantized (`quantized_sources`).
    """
    sources = [
        source for prefix, owner in owned_modules(denoiser).items() for source in module_sources(owner, prefix, dtype)
    ]
    if int8:
        parts = [quantized_sources(source) if _is_matrix(source) else (source,) for source in sources]
        sources = [source for part in parts for source in part]
    write_tensors(folder / WEIGHTS_NAME, sources)


def _is_matrix(source: TensorSource) -> bool:
    return source.name.startswith("layers.") and len(source.shape) == 2


def quantized_sources(source: TensorSource) -> tuple[TensorSource, TensorSource]:
    """A matrix [in, out] as int8, and `<name>.scale` [out]: symmetric, each output channel by its largest value."""

    def scale() -> Tensor:
        largest = source.make().float().abs().amax(dim=0)
        return torch.where(largest > 0, largest / _INT8_MAX, 1.0).to(source.dtype)

    def values() -> Tensor:
        return (source.make().float() / scale().float()).round().clamp(-_INT8_MAX, _INT8_MAX).to(torch.int8)

    return (
        TensorSource(source.name, torch.int8, source.shape, values),
        TensorSource(source.name + _SCALE, source.dtype, source.shape[1:], scale),
    )


def module_sources(module: nn.Module, prefix: str, dtype: torch.dtype) -> list[TensorSource]:
    """A module's parameters and buffers, named `<prefix><name>`; integers keep their type."""
    return [
        TensorSource(
            prefix + name, dtype if tensor.is_floating_point() else tensor.dtype, tuple(tensor.shape), tensor.detach
        )
        for name, tensor in named_weights(module).items()
    ]


class WeightsFile:
    """Hands out initializers that refer to tensors of a weights file by offset and length."""

    def __init__(self, folder: Path, name: str = WEIGHTS_NAME) -> None:
        self._folder, self._name = folder, name
        self._entries: dict[str, TensorEntry] = read_header(folder / name)

    def scale_of(self, name: str) -> str:
        """The name of a quantized tensor's scale, "" for a tensor that is not quantized."""
        return name + _SCALE if self._entries[name].dtype == "I8" else ""

    def initializer(self, name: str) -> ir.Value:
        """A new graph initializer for tensor `name`."""
        if name not in self._entries:
            raise InternalError(f"{self._folder / self._name} has no tensor {name}")
        entry = self._entries[name]
        tensor = ir.ExternalTensor(
            self._name, entry.begin, entry.end - entry.begin, _DTYPES[entry.dtype], shape=ir.Shape(entry.shape),
            name=name, base_dir=str(self._folder),
        )  # fmt: skip
        return ir.Value(
            name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(entry.shape), const_value=tensor
        )
