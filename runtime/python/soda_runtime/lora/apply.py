"""LoRA files on a bundle: each layer's change is added to the matrices of the bundle's weights files that it means."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError, RequestError
from ..files import REBUILD
from ..manifest import Manifest
from ..replaced import FLOAT_DTYPES, HostTensor, Replaced, narrowed, widened
from ..signature import encoders
from ..tensors import TensorEntry, read_header
from .argument import LoraArgument, read_argument, read_strength
from .file import LoraFile, LoraLayer, read_lora
from .names import keys_of, match_layers

_WEIGHT, _TRANSPOSED = ".weight", ".weight.T"
_UNET = "unet."  # before a UNet's names where it stands beside its ControlNets
_MOST_THREADS = min(4, os.cpu_count() or 1)
_versions = count(1)


@dataclass(frozen=True)
class _Stored:
    """A matrix in a weights file."""

    file: str
    name: str
    entry: TensorEntry

    @property
    def turned(self) -> bool:
        """Whether it is stored [in, out]."""
        return self.name.endswith(_TRANSPOSED)

    @property
    def shape(self) -> tuple[int, ...]:
        """[out, in, ...], however it is stored."""
        return self.entry.shape[::-1] if self.turned else self.entry.shape


@dataclass(frozen=True)
class _Change:
    """What a layer adds to a matrix: some rows of its product. lora: number of its file."""

    lora: int
    layer: LoraLayer
    rows: slice


class BundleLoras:
    """LoRA files, and where in a bundle's weights files their changes go."""

    def __init__(self, folder: Path, manifest: Manifest, given: Sequence[LoraArgument]) -> None:
        """Read and match the files. Raises RequestError, and BundleError for weights files that are damaged."""
        if isinstance(given, (str, bytes, os.PathLike)) or not isinstance(given, Sequence):
            raise RequestError(f"lora {given!r:.80}: give a list of files, or of (file, strength)")
        pairs = [read_argument(each) for each in given]
        self.files = tuple(path for path, _ in pairs)
        self.strengths = tuple(strength for _, strength in pairs)
        self._loras = tuple(read_lora(path) for path, _ in pairs)
        self._folder = folder
        self._changes: dict[_Stored, list[_Change]] = {}
        parts = _parts(folder, manifest)
        known = {key: paths for part, layers in parts.items() for key, paths in keys_of(part, layers).items()}
        for number, lora in enumerate(self._loras):
            for layer, part, paths in match_layers(lora, known, tuple(parts), is_built=True):
                stored = [parts[part][path] for path in paths]
                rows = rows_of(lora, layer, [twins[0].shape for twins in stored])
                for twins, own in zip(stored, rows, strict=True):
                    for matrix in twins:
                        _require_floats(lora, matrix)
                        self._changes.setdefault(matrix, []).append(_Change(number, layer, own))

    def replaced(self, strengths: Sequence[float]) -> Replaced:
        """The changed weights with these strengths, one for each file. Raises RequestError."""
        if len(strengths) != len(self._loras):
            raise RequestError(f"{len(strengths)} strengths for {len(self._loras)} LoRA files; give one for each")
        values = tuple(read_strength(strength) for strength in strengths)
        files: dict[str, dict[str, HostTensor]] = {}
        touched = {
            matrix: wanted
            for matrix, changes in self._changes.items()
            if (wanted := [change for change in changes if values[change.lora]])
        }
        with ThreadPoolExecutor(_MOST_THREADS, "soda-lora") as pool:
            made = pool.map(lambda matrix: self._changed(matrix, touched[matrix], values), touched)
            for matrix, tensor in zip(touched, made, strict=True):
                files.setdefault(matrix.file, {})[matrix.name] = tensor
        self.strengths = values
        return Replaced(next(_versions), files) if files else Replaced()

    def _changed(self, matrix: _Stored, changes: Sequence[_Change], strengths: Sequence[float]) -> HostTensor:
        """The stored matrix with its changes, summed in float32."""
        entry = matrix.entry
        count = entry.end - entry.begin
        stored = np.fromfile(self._folder / matrix.file, np.uint8, count, offset=entry.begin)
        if len(stored) < count:
            raise BundleError(f"{self._folder / matrix.file}: was cut while the bundle is open; {REBUILD}")
        values = widened(entry.dtype, stored).reshape(entry.shape)
        for change in changes:
            added = low_rank_change(change.layer, change.rows, strengths[change.lora], matrix.turned)
            with np.errstate(invalid="ignore"):
                values += added.reshape(entry.shape)
        made = narrowed(entry.dtype, values)
        kept = values if entry.dtype == "F32" else widened(made.dtype, made.content)
        if kept.size and not np.isfinite([kept.min(), kept.max()]).all():
            files = " and ".join(dict.fromkeys(str(self._loras[change.lora].path) for change in changes))
            raise RequestError(
                f"lora {files}: takes {matrix.name!r:.120} beyond the range of {entry.dtype}, or is not finite itself; "
                "use a lower strength"
            )
        return made


def rows_of(lora: LoraFile, layer: LoraLayer, shapes: Sequence[tuple[int, ...]]) -> Iterator[slice]:
    """The rows of a layer's product that go to each of the matrices [out, in, ...] that it means.

    Raises RequestError where they do not fit.
    """
    out, own = layer.up.shape[0], layer.down.shape[1:]
    if out != sum(shape[0] for shape in shapes) or not all(_same(shape[1:], own) for shape in shapes):
        found = " and ".join(str(list(shape)) for shape in shapes)
        raise RequestError(
            f"lora {lora.path}: {layer.name!r:.120} is for a matrix {[out, *own]}, and this model's is {found}; it is "
            "for another model"
        )
    begin = 0
    for shape in shapes:
        yield slice(begin, begin + shape[0])
        begin += shape[0]


def low_rank_change(layer: LoraLayer, rows: slice, strength: float, turned: bool = False) -> NDArray[np.float32]:
    """Rows of strength * scale * up @ down, [out, in * ...], or turned [in * ..., out]."""
    down, up = layer.down.values(), layer.up.values()
    with np.errstate(over="ignore", invalid="ignore"):  # whoever adds it looks whether the sum is finite
        factors: NDArray[Any] = up.reshape(up.shape[:2])[rows] * np.float32(strength * layer.scale)
        others = down.reshape(len(down), -1)
        product: NDArray[np.float32] = others.T @ factors.T if turned else factors @ others
    return product


def _same(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Whether axes are equal but for ones at the end: a product may stand as a 1 x 1 convolution."""
    longer, shorter = (a, b) if len(a) >= len(b) else (b, a)
    return longer[: len(shorter)] == shorter and math.prod(longer[len(shorter) :]) == 1


def _parts(folder: Path, manifest: Manifest) -> dict[str, dict[str, list[_Stored]]]:
    """Part of the model -> layer -> its matrix, or twins of it: once [out, in] and once [in, out].

    The denoiser is "", a text encoder has the name that its weights begin with. What makes results has no LoRA.
    """
    of_steps = {program.weights for program in manifest.programs}  # an old bundle may have one file for all
    of_texts = {program.weights for program in encoders(manifest)} - of_steps
    of_results = {program.weights for program in manifest.finish} - of_steps
    parts: dict[str, dict[str, list[_Stored]]] = {"": {}}
    for file in manifest.weights:
        if file in of_results:
            continue
        for name, entry in read_header(folder / file).items():
            path = next((name.removesuffix(end) for end in (_TRANSPOSED, _WEIGHT) if name.endswith(end)), "")
            if not path or len(entry.shape) < 2:
                continue
            part, _, own = path.partition(".") if file in of_texts else ("", "", path.removeprefix(_UNET))
            parts.setdefault(part, {}).setdefault(own, []).append(_Stored(file, name, entry))
    return parts


def _require_floats(lora: LoraFile, matrix: _Stored) -> None:
    if matrix.entry.dtype not in FLOAT_DTYPES:
        raise RequestError(
            f"lora {lora.path}: this bundle keeps {matrix.name!r:.120} in {matrix.entry.dtype}, where small changes "
            "round away; bake the LoRA in with `soda-export build --lora`"
        )
