"""Tensors from disk to disk, one at a time: write a safetensors file, read a checkpoint of any number of files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..errors import ExportError, InternalError, ModelError
from ..files import replacing
from ..models.checkpoint import OneFile, check_finite, is_finite, weights_entry
from ..models.published import read_json

_ALIGNMENT = 64  # bytes: a cache line and the widest vector register, for readers that map the file
DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""What can be written -> its name in a file."""


@dataclass(frozen=True)
class TensorSource:
    """A tensor that is produced when its turn comes; `make` may give another floating type, which is cast. finite: a
    weight, as opposed to a constant such as a mask; NaN and infinity are refused."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    make: Callable[[], Tensor]
    finite: bool = False


def write_tensors(
    path: Path, tensors: Iterable[TensorSource], progress: Callable[[int, int], None] = lambda done, total: None,
    metadata: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Write a safetensors file with one tensor in memory at a time; whole or not at all.

    `make` is called once a source, in the order given. That order leaves no trace in the file: wider types lie first,
    so that every tensor is aligned to its items, then names in order. Raises UsageError where the disk refuses, and
    InternalError for a tensor other than announced. progress(done, total) counts tensors.
    """
    sources = list(tensors)
    header, begins = _layout(sources, metadata)
    with replacing(path) as scratch, scratch.open("wb") as file:
        file.write(header)
        for done, source in enumerate(sources):
            file.seek(len(header) + begins[source.name])
            _write_one(file, source)
            progress(done + 1, len(sources))


def _layout(sources: list[TensorSource], metadata: Mapping[str, str] | None) -> tuple[bytes, dict[str, int]]:
    """The file up to its first tensor, and where each tensor begins after that."""
    entries: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    begins: dict[str, int] = {}
    end = 0
    for source in sorted(sources, key=lambda s: (-s.dtype.itemsize, s.name)):
        if source.name in begins or source.dtype not in DTYPES:
            raise InternalError(f"tensor {source.name} of {source.dtype} occurs twice or has no place in a file")
        begin, end = end, end + math.prod(source.shape) * source.dtype.itemsize
        begins[source.name] = begin
        entries[source.name] = {
            "dtype": DTYPES[source.dtype], "shape": list(source.shape), "data_offsets": [begin, end]
        }  # fmt: skip
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text, begins


def _write_one(file: BinaryIO, source: TensorSource) -> None:
    """Produce, cast and write; nothing of the tensor is left when this returns."""
    tensor = source.make().detach()
    fits = tensor.dtype == source.dtype or (tensor.is_floating_point() and source.dtype.is_floating_point)
    if tuple(tensor.shape) != source.shape or not fits:
        found = f"{tuple(tensor.shape)} {tensor.dtype}"
        raise InternalError(f"tensor {source.name} is {found}, announced as {source.shape} {source.dtype}")
    made = tensor
    if tensor.dtype != source.dtype or not tensor.is_contiguous():
        tensor = torch.empty(source.shape, dtype=source.dtype).copy_(tensor)  # cast and transposed in one copy
    if source.finite and not is_finite(tensor):
        raise _not_finite(source, made)
    if tensor.numel():
        file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)


def _not_finite(source: TensorSource, made: Tensor) -> ExportError:
    """What is wrong with a weight: it was so before, or became so when it was cast."""
    if not is_finite(made):
        return ExportError(f"weight {source.name} has NaN or infinity; get the checkpoint again, or another revision")
    largest, kind = float(made.abs().max()), str(source.dtype).removeprefix("torch.")
    return ExportError(
        f"weight {source.name} reaches {largest:.3g}, beyond the {torch.finfo(source.dtype).max:.3g} of {kind}; "
        "build with --precision fp32, or bf16 with --backend openvino"
    )


class Checkpoint:
    """The tensors of a component folder: those of its one file, or of the files that its index lists.

    One file is open at a time, so that no more than one is ever mapped: ask for tensors in the order of `file_of`.
    change(key, tensor): what is read in a tensor's place.
    """

    def __init__(
        self, folder: Path, variant: str = "", change: Callable[[str, Tensor], Tensor] = lambda key, tensor: tensor
    ) -> None:
        self._change = change
        self.listed_in = weights_entry(folder, variant)
        self._mapped = OneFile()
        is_index = self.listed_in.suffix == ".json"
        whole = {} if is_index else dict.fromkeys(self._open(self.listed_in).keys(), self.listed_in)
        self._files = _read_index(self.listed_in) if is_index else whole

    def __contains__(self, key: str) -> bool:
        return key in self._files

    def file_of(self, key: str) -> Path:
        """The file that has tensor `key`. Raises ModelError."""
        if key not in self._files:
            raise ModelError(f"{self.listed_in}: no tensor {key!r}; the checkpoint is incomplete")
        return self._files[key]

    def shape(self, key: str) -> tuple[int, ...]:
        """Read from the header alone. Raises ModelError."""
        path = self.file_of(key)
        try:
            return tuple(self._open(path).get_slice(key).get_shape())
        except SafetensorError:
            raise ModelError(f"{path}: no tensor {key!r}; the checkpoint is incomplete") from None

    def read(self, key: str) -> Tensor:
        """The tensor, mapped from its file unless it is changed. Raises ModelError."""
        self.shape(key)
        path = self.file_of(key)
        return self._change(key, check_finite(self._open(path).get_tensor(key), path, key))

    def _open(self, path: Path) -> Any:
        try:
            return self._mapped.open(path)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path}: cannot be read: {error}; download it again") from None


Changes = Mapping[str, Callable[[str, Tensor], Tensor]]
NO_CHANGES: Changes = {}


def open_checkpoint(sources: Mapping[str, Path], part: str, variant: str, changes: Changes) -> Checkpoint:
    """The checkpoint of a part, with its changes where it has any."""
    return Checkpoint(sources[part], variant, *((changes[part],) if part in changes else ()))


def refuse_pickled(folder: Path) -> None:
    """ModelError for a folder whose only weights are pickled: loading those can run any code."""
    if not list(folder.glob("*.safetensors")) and list(folder.glob("*.bin")):
        raise ModelError(f"{folder}: the weights are .bin files; run `soda-export convert {folder}` once")


def _read_index(path: Path) -> dict[str, Path]:
    """Tensor name -> file, of an index."""
    try:
        files = read_json(path, "")["weight_map"]
        return {str(key): path.parent / Path(name).name for key, name in files.items()}
    except (KeyError, TypeError, AttributeError):
        raise ModelError(f"{path}: not an index of weights; download it again") from None
