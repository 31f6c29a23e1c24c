"""The one weights file: written once, every graph's initializers point into it."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
from safetensors.torch import save_file
from soda_runtime.tensors import TensorEntry, read_header

from ..errors import InternalError
from ..models.denoiser import Denoiser
from .trace import named_weights

WEIGHTS_NAME = "weights.safetensors"
_DTYPES = {"F32": ir.DataType.FLOAT, "I64": ir.DataType.INT64}


def layer_prefix(layer: int, module: str) -> str:
    """Where a module's weights lie in the file's names."""
    return f"layers.{layer}.{module}."


def write_weights(denoiser: Denoiser, folder: Path) -> None:
    """Write all weights of a denoiser to WEIGHTS_NAME in `folder`."""
    spec = denoiser.spec
    owners = {"prepare.": denoiser.prepare, "embed.": denoiser.embed, "head.": denoiser.head}
    owners |= {
        layer_prefix(layer, name): denoiser.module(layer, name)
        for layer in range(spec.num_layers)
        for name in spec.modules
    }
    tensors = {
        prefix + name: tensor.detach().contiguous()
        for prefix, owner in owners.items()
        for name, tensor in named_weights(owner).items()
    }
    save_file(dict(sorted(tensors.items())), folder / WEIGHTS_NAME)


class WeightsFile:
    """Hands out initializers that refer to tensors of the weights file by offset and length."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._entries: dict[str, TensorEntry] = read_header(folder / WEIGHTS_NAME)

    def initializer(self, name: str) -> ir.Value:
        """A new graph initializer for tensor `name`."""
        if name not in self._entries:
            raise InternalError(f"{self._folder / WEIGHTS_NAME} has no tensor {name}")
        entry = self._entries[name]
        tensor = ir.ExternalTensor(
            WEIGHTS_NAME, entry.begin, entry.end - entry.begin, _DTYPES[entry.dtype], shape=ir.Shape(entry.shape),
            name=name, base_dir=str(self._folder),
        )  # fmt: skip
        return ir.Value(
            name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(entry.shape), const_value=tensor
        )


