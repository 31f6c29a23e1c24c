"""LoRA files that are baked into a model: each is added to the tensors of the checkpoint as they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from soda_runtime.lora import parse_lora
from soda_runtime.lora.apply import low_rank_change, rows_of
from soda_runtime.lora.file import LoraLayer, read_lora
from soda_runtime.lora.names import keys_of, match_layers
from torch import Tensor

from ..errors import ModelError
from .weights import Weights

DENOISER = ""
"""The part that has no name of its own; text encoders have those of their folders."""
_WEIGHT = ".weight"
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class _Change:
    layer: LoraLayer
    rows: slice
    strength: float


class LoraChanges:
    """What LoRA files add to a model's tensors."""

    def __init__(self, given: Sequence[str], parts: Mapping[str, Shapes]) -> None:
        """given: FILE or FILE:STRENGTH each. parts: part -> its tensors' shapes, by their names in the checkpoint.

        Raises RequestError for a file that is no LoRA or does not fit, and for a strength that is no number.
        """
        self.names = tuple(parse_lora(each)[0].stem for each in given)
        self._changes: dict[tuple[str, str], list[_Change]] = {}
        self._digests: list[str] = []
        layers = {
            part: [name.removesuffix(_WEIGHT) for name, shape in shapes.items() if _is_matrix(name, shape)]
            for part, shapes in parts.items()
        }
        known = {key: paths for part, paths_ in layers.items() for key, paths in keys_of(part, paths_).items()}
        for file, strength in map(parse_lora, given):
            lora = read_lora(file)
            self._digests.append(f"{lora.digest}:{strength!r}")
            for layer, part, paths in match_layers(lora, known, tuple(parts)):
                shapes = [parts[part][path + _WEIGHT] for path in paths]
                for path, rows in zip(paths, rows_of(lora, layer, shapes), strict=True):
                    self._changes.setdefault((part, path + _WEIGHT), []).append(_Change(layer, rows, strength))

    @property
    def content(self) -> str:
        """What tells these changes from others."""
        return " ".join(self._digests)

    def of_part(self, part: str) -> Callable[[str, Tensor], Tensor]:
        """`apply` of one part's tensors."""
        return partial(self.apply, part)

    def apply(self, part: str, name: str, tensor: Tensor) -> Tensor:
        """The tensor with its changes in float32; itself where it has none."""
        changes = self._changes.get((part, name), [])
        for change in changes:
            added = torch.from_numpy(low_rank_change(change.layer, change.rows, change.strength))
            tensor = tensor.float() + added.reshape(tensor.shape)
        if changes and not torch.isfinite(tensor).all():
            raise ModelError(f"--lora: makes {name!r} infinite; use a lower strength, or get the file again")
        return tensor


class LoraWeights:
    """A denoiser's weights with LoRA files added. prefix: what names have before those of the checkpoint."""

    def __init__(self, weights: Weights, lora: LoraChanges, prefix: str) -> None:
        self._weights, self._lora, self._prefix = weights, lora, prefix

    @property
    def names(self) -> tuple[str, ...]:
        return self._weights.names

    def spec(self, name: str) -> tuple[tuple[int, ...], torch.dtype]:
        return self._weights.spec(name)

    def read(self, name: str) -> Tensor:
        return self._lora.apply(DENOISER, name.removeprefix(self._prefix), self._weights.read(name))


def _is_matrix(name: str, shape: Sequence[int]) -> bool:
    return name.endswith(_WEIGHT) and len(shape) > 1
