"""Hold a program's external weights against the weights file that the manifest names: they go by one name and place.

A walk over the few fields of ONNX's protobuf that are looked at; the runtime has no parser of ONNX.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .errors import BundleError
from .tensors import TensorEntry

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_GRAPH, _INITIALIZER = 7, 5  # fields of ModelProto and GraphProto
_PARTS = {  # kind of message -> its fields that may have tensors below them, and their kinds
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}  # fmt: skip
_MAX_DEPTH = 64  # protobuf's own limit is 100
_DIMS, _DATA_TYPE, _NAME, _EXTERNAL_DATA, _DATA_LOCATION = 1, 2, 8, 13, 14  # fields of TensorProto
_KEY, _VALUE = 1, 2  # fields of StringStringEntryProto
_EXTERNAL = 1
_DTYPES = {
    1: "F32", 2: "U8", 3: "I8", 5: "I16", 6: "I32", 7: "I64", 9: "BOOL", 10: "F16", 11: "F64", 16: "BF16",
}  # fmt: skip


class External(NamedTuple):
    """An initializer that lies in another file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    location: str
    offset: str
    length: str


def check_initializers(path: Path, weights: str, entries: Mapping[str, TensorEntry]) -> None:
    """Every external initializer of the graph at `path` is a tensor of `weights`, by name, place, dtype and shape.

    entries: that file's header. Raises BundleError.
    """
    for found in external_initializers(path):
        entry = entries.get(found.name)
        wanted = entry and External(
            found.name, entry.dtype, entry.shape, weights, str(entry.begin), str(entry.end - entry.begin)
        )
        if found != wanted:
            what = f"initializer {found.name!r:.80} is not the tensor of that name in {weights or 'a weights file'}"
            raise BundleError(f"{path}: {what}; rebuild the bundle")


def external_initializers(path: Path) -> Iterator[External]:
    """Those of an ONNX graph's own level. Raises BundleError where it is not protobuf."""
    try:
        for graph in _fields(memoryview(path.read_bytes()), _GRAPH):
            for tensor in _fields(graph, _INITIALIZER):
                if _EXTERNAL in _fields(tensor, _DATA_LOCATION):
                    yield _external(tensor)
    except (ValueError, IndexError, TypeError, KeyError):
        raise BundleError(f"{path}: not an ONNX model; copy or build the bundle again") from None


def external_locations(path: Path) -> set[str]:
    """Files that any tensor of an ONNX model is taken from, at whatever depth. Raises BundleError."""
    try:
        return set(_locations(memoryview(path.read_bytes()), "model", 0))
    except (ValueError, IndexError, TypeError, KeyError):
        raise BundleError(f"{path}: not an ONNX model; copy or build the bundle again") from None


def _locations(message: memoryview, kind: str, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    if b"location" not in bytes(message):  # a string's bytes stand in all messages around it: few parts are walked
        return
    if kind == "tensor":
        for entry in _messages(message, _EXTERNAL_DATA):
            if _bytes(entry, _KEY) == b"location":
                yield _bytes(entry, _VALUE).decode(errors="replace")  # no file of a bundle has such a name
        return
    parts = _PARTS[kind]
    for number, value in _all_fields(message):
        if number in parts and isinstance(value, memoryview):
            yield from _locations(value, parts[number], depth + 1)


def _external(tensor: memoryview) -> External:
    pairs = {_text(entry, _KEY): _text(entry, _VALUE) for entry in _fields(tensor, _EXTERNAL_DATA)}
    shape: list[int] = []
    for dims in _fields(tensor, _DIMS):
        shape += [dims] if isinstance(dims, int) else _packed(dims)
    (kind,) = _fields(tensor, _DATA_TYPE)
    dtype = _DTYPES.get(kind, str(kind))
    place = (pairs.get("location", ""), pairs.get("offset", "0"), pairs.get("length", ""))
    return External(_text(tensor, _NAME), dtype, tuple(shape), *place)


def _text(message: memoryview, field: int) -> str:
    return _bytes(message, field).decode()


def _bytes(message: memoryview, field: int) -> bytes:
    (value,) = _messages(message, field)
    return bytes(value)


def _messages(message: memoryview, wanted: int) -> list[memoryview]:
    """Values of one field that are bytes; those of another wire type are no values of it."""
    return [value for value in _fields(message, wanted) if isinstance(value, memoryview)]


def _packed(values: memoryview) -> list[int]:
    at, numbers = 0, []
    while at < len(values):
        number, at = _varint(values, at)
        numbers.append(number)
    return numbers


def _fields(message: memoryview, wanted: int) -> list[Any]:
    """Values of one field of a message, in order: numbers, or bytes."""
    return [value for number, value in _all_fields(message) if number == wanted]


def _all_fields(message: memoryview) -> list[tuple[int, Any]]:
    """Numbers and values of all fields of a message, in order."""
    at = 0
    values: list[tuple[int, Any]] = []
    value: Any
    while at < len(message):
        tag, at = message[at], at + 1
        if tag >= 0x80:  # of more than a byte, which is rare
            tag, at = _varint(message, at - 1)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
        elif kind == _BYTES:
            size, at = _varint(message, at)
            value, at = message[at : at + size], at + size
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
            value, at = message[at : at + size], at + size
        else:
            raise ValueError("a group, or no field at all")
        if at > len(message):
            raise ValueError("a field is longer than its message")
        values.append((tag >> 3, value))
    return values


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
