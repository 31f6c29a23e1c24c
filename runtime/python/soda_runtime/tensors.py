"""Read the safetensors format with numpy alone, checking every number of the header before using it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import BundleError
from .strict_json import StrictJsonError, parse_json

_MAX_HEADER_BYTES = 16 << 20
_DTYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4"}


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies: byte range in the file, begin inclusive, end exclusive."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(path: Path) -> dict[str, TensorEntry]:
    """The checked header of a safetensors file; byte offsets count from the start of the file."""
    size = path.stat().st_size
    header, length = _parse(path, size)
    entries = {
        name: _entry(path, name, entry, 8 + length) for name, entry in header.items() if name != "__metadata__"
    }
    expected = 8 + length
    for name, tensor in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != expected:
            raise _damaged(path, f"tensor {name!r:.80} overlaps another or leaves a hole")
        expected = tensor.end
    if expected != size:
        raise _damaged(path, f"{expected} bytes are described, the file has {size}")
    return entries


def read_metadata(path: Path) -> dict[str, str]:
    """The strings that a safetensors file says of itself."""
    given = _parse(path, path.stat().st_size)[0].get("__metadata__")
    return {key: value for key, value in given.items() if isinstance(value, str)} if isinstance(given, dict) else {}


def read_tensors(path: Path) -> dict[str, NDArray[np.generic]]:
    """All tensors of a (small) safetensors file as numpy arrays."""
    entries = read_header(path)
    data = path.read_bytes()
    arrays: dict[str, NDArray[np.generic]] = {}
    for name, entry in entries.items():
        if entry.dtype not in _NUMPY:
            raise _damaged(path, f"tensor {name!r:.80} has dtype {entry.dtype}, which tables do not use")
        arrays[name] = np.frombuffer(data[entry.begin : entry.end], _NUMPY[entry.dtype]).reshape(entry.shape).copy()
    return arrays


def _parse(path: Path, size: int) -> tuple[dict[str, Any], int]:
    """The header of a file of `size` bytes as JSON has it, and its length."""
    with path.open("rb") as file:
        prefix = file.read(8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or length > min(_MAX_HEADER_BYTES, size - 8):
            raise _damaged(path, "the header is longer than the file")
        text = file.read(length)
    try:
        header = parse_json(text)
    except StrictJsonError as error:
        raise _damaged(path, f"the header is {error}") from None
    if not isinstance(header, dict):
        raise _damaged(path, "the header is not an object")
    return header, length


def _entry(path: Path, name: str, entry: object, data_start: int) -> TensorEntry:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _damaged(path, f"tensor {name!r:.80} has a malformed entry")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise _damaged(path, f"tensor {name!r:.80} has unknown dtype {dtype!r:.20}")
    if not _natural_numbers(shape) or not _natural_numbers(offsets) or len(offsets) != 2 or len(shape) > 8:
        raise _damaged(path, f"tensor {name!r:.80} has a malformed shape or range")
    begin, end = offsets
    if end - begin != math.prod(shape) * _DTYPES[dtype]:
        raise _damaged(path, f"tensor {name!r:.80} has shape {shape} but {end - begin} bytes")
    return TensorEntry(dtype, tuple(shape), data_start + begin, data_start + end)


def _natural_numbers(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**48 for item in value)


def _damaged(path: Path, reason: str) -> BundleError:
    return BundleError(f"{path}: {reason}; the file is damaged, copy or build the bundle again")
