"""A model's weights by name, each made when it is asked for: from a checkpoint's files, or random by seed and name."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ..errors import ModelError
from .checkpoint import OneFile, weight_files

_UNUSED = {"pos_embed.pos_embed", "caption_projection.y_embedding"}
"""Tensors of older checkpoints that today's diffusers computes, or does not read."""
_STD = 0.02
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn,
}  # fmt: skip


class Weights(Protocol):
    """Tensors by their names in the checkpoint, never all in memory."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def spec(self, name: str) -> tuple[tuple[int, ...], torch.dtype]:
        """Shape and type of a tensor, from headers alone."""

    def read(self, name: str) -> Tensor:
        """The tensor. The caller owns it, but must not write to it: it may be mapped from a file."""


class CheckpointWeights:
    """Tensors of a component folder's .safetensors files, of which one is open at a time."""

    def __init__(self, folder: Path, places: Mapping[str, Tensor]) -> None:
        """places: the model's own state, which says what must be there. Raises ModelError where a tensor has no place,
        a place no tensor, or either the wrong shape."""
        files = weight_files(folder)
        self._mapped = OneFile()
        self._found: dict[str, tuple[Path, tuple[int, ...], torch.dtype]] = {}
        for path in files:
            file = self._open(path)
            for key in file.keys():  # noqa: SIM118  # no mapping: it has no other way to iterate
                if key not in places and key in _UNUSED:
                    continue
                if key not in places or key in self._found:
                    raise ModelError(f"{path}: weights have {key!r}, which the configuration has no place for")
                part = file.get_slice(key)
                shape, wanted = tuple(part.get_shape()), tuple(places[key].shape)
                if shape != wanted:
                    raise ModelError(f"{path}: {key!r} has shape {shape}, but the configuration makes it {wanted}")
                self._found[key] = (path, shape, _DTYPES[part.get_dtype()])
        missing = next((name for name in places if name not in self._found), None)
        if missing is not None:
            where = files[0] if len(files) == 1 else folder
            raise ModelError(f"{where}: weights lack {missing!r}; the checkpoint is incomplete")

    @property
    def names(self) -> tuple[str, ...]:
        """In the order of the files, so that each is opened once."""
        return tuple(self._found)

    def spec(self, name: str) -> tuple[tuple[int, ...], torch.dtype]:
        _, shape, dtype = self._found[name]
        return shape, dtype

    def read(self, name: str) -> Tensor:
        path = self._found[name][0]
        try:
            tensor: Tensor = self._open(path).get_tensor(name)
        except SafetensorError as error:
            raise ModelError(f"{path}: not a readable .safetensors file ({error}); get it again") from None
        return tensor

    def _open(self, path: Path) -> Any:
        try:
            return self._mapped.open(path)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path}: not a readable .safetensors file ({error}); get it again") from None


class JoinedWeights:
    """Tensors of several components, each under its prefix."""

    def __init__(self, parts: Mapping[str, Weights]) -> None:
        self._places = {f"{prefix}.{name}": (part, name) for prefix, part in parts.items() for name in part.names}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._places)

    def spec(self, name: str) -> tuple[tuple[int, ...], torch.dtype]:
        part, own = self._places[name]
        return part.spec(own)

    def read(self, name: str) -> Tensor:
        part, own = self._places[name]
        return part.read(own)


class RandomWeights:
    """Every parameter N(0, 0.02^2), those that training starts from zero too; norms' scales around 1.

    A parameter's values depend on the seed and its name alone. Buffers are none of them: the configuration decides
    their values.
    """

    def __init__(self, model: nn.Module, seed: int) -> None:
        self._seed = seed
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._means: dict[str, float] = {}
        self._texts: dict[str, str] = {}
        for prefix, module in model.named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                full = f"{prefix}.{name}" if prefix else name
                self._shapes[full] = tuple(parameter.shape)
                self._texts[full] = f"{seed} {prefix}.{name}"
                self._means[full] = 1.0 if name == "weight" and "Norm" in type(module).__name__ else 0.0

    @property
    def names(self) -> tuple[str, ...]:
        """In the order of the modules."""
        return tuple(self._shapes)

    def spec(self, name: str) -> tuple[tuple[int, ...], torch.dtype]:
        return self._shapes[name], torch.float32

    def read(self, name: str) -> Tensor:
        start = int.from_bytes(hashlib.sha256(self._texts[name].encode()).digest()[:8], "big", signed=True)
        generator = torch.Generator().manual_seed(start)
        return torch.empty(self._shapes[name]).normal_(self._means[name], _STD, generator=generator)


def num_parameters(weights: Weights) -> int:
    """Numbers in all tensors."""
    return sum(math.prod(weights.spec(name)[0]) for name in weights.names)
