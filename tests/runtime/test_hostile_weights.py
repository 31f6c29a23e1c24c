"""A bundle whose weights lie in their header, or lie where they were not listed, is refused when it is opened."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .bundles import Json, fix_hashes, safetensors_bytes, split_safetensors

Refuses = Callable[[Path, str], None]


def _place_in(folder: Path, location: str, graph: Any) -> None:
    """A program of the bundle that is `graph`, whose tensors lie in `location`."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(folder / "step-00.onnx", load_external_data=False)
    graph(onnx, model, location)
    (folder / "step-00.onnx").write_bytes(model.SerializeToString())
    fix_hashes(folder)


def _tensor(onnx: Any, location: str) -> Any:
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[1], data_location=1)
    for key, value in {"location": location, "offset": "0", "length": "4"}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def _initializer(onnx: Any, model: Any, location: str) -> None:
    model.graph.initializer.append(_tensor(onnx, location))


def _moved(onnx: Any, model: Any, location: str) -> None:
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = location if entry.key == "location" else entry.value


def _constant(onnx: Any, model: Any, location: str) -> None:
    model.graph.node.append(onnx.helper.make_node("Constant", [], ["w"], value=_tensor(onnx, location)))


def _of_a_branch(onnx: Any, model: Any, location: str) -> None:
    branch = onnx.GraphProto(name="branch", initializer=[_tensor(onnx, location)])
    model.graph.node.append(onnx.helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch))


def _of_a_function(onnx: Any, model: Any, location: str) -> None:
    node = onnx.helper.make_node("Constant", [], ["w"], value=_tensor(onnx, location))
    model.functions.append(onnx.FunctionProto(name="f", domain="d", node=[node]))


def _sparse(onnx: Any, model: Any, location: str) -> None:
    model.graph.sparse_initializer.append(onnx.SparseTensorProto(values=_tensor(onnx, location), dims=[1]))


@pytest.mark.parametrize("graph", [_initializer, _moved, _constant, _of_a_branch, _of_a_function, _sparse])
@pytest.mark.parametrize("location", ["../outside", "/outside", "unlisted", "./weights.safetensors", "", "w" * 5000])
def test_a_program_that_takes_weights_from_a_file_that_is_not_listed_is_refused(
    folder: Path, refuses: Refuses, graph: Any, location: str
) -> None:
    for path in (folder.parent / "outside", folder / "unlisted"):
        path.write_bytes((folder / "weights.safetensors").read_bytes())
    where = str(folder.parent / "outside") if location == "/outside" else location
    _place_in(folder, where, graph)
    refuses(folder, "step-00.onnx")


def test_a_damaged_program_that_speaks_of_locations_is_refused(folder: Path, refuses: Refuses) -> None:
    path = folder / "step-00.onnx"
    path.write_bytes(path.read_bytes()[:-7])
    fix_hashes(folder)
    refuses(folder, "step-00.onnx")


def _stretch(header: Json, data: bytes) -> bytes:
    first = min(header, key=lambda name: header[name]["data_offsets"][0])
    header[first]["data_offsets"][1] += 4
    return safetensors_bytes(header, data)


def _overlap(header: Json, data: bytes) -> bytes:
    first, second = sorted(header, key=lambda name: header[name]["data_offsets"][0])[:2]
    header[second] = header[first]
    return safetensors_bytes(header, data)


def _nested(levels: int) -> Json:
    value: Json = []
    for _ in range(levels - 1):
        value = [value]
    return value


LIES: dict[str, Callable[[Json, bytes], bytes]] = {
    "is longer than the file": lambda header, data: (1 << 20).to_bytes(8, "little") + data[:100],
    "is 2**64 - 1 bytes long": lambda header, data: b"\xff" * 8 + data,
    "is over 16 MiB": lambda header, data: safetensors_bytes(b"{}" + b" " * (16 << 20)),
    "is not an object": lambda header, data: safetensors_bytes([header], data),
    "nests too deeply": lambda header, data: safetensors_bytes(b"[" * 100_000, data),
    "has 513 levels in its metadata": lambda header, data: safetensors_bytes(
        {"__metadata__": _nested(512), **header}, data
    ),
    "has half a pair of surrogates in its metadata": lambda header, data: safetensors_bytes(
        {"__metadata__": {"title": "\ud800"}, **header}, data
    ),
    "has a key of half a pair in its metadata": lambda header, data: safetensors_bytes(
        {"__metadata__": {"\udfff": ""}, **header}, data
    ),
    "has a number beyond float64 in its metadata": lambda header, data: safetensors_bytes(
        json.dumps({"__metadata__": 0.5, **header}).replace("0.5", "1e999").encode(), data
    ),
    "claims a petabyte": lambda header, data: safetensors_bytes(
        {"w": {"dtype": "F32", "shape": [1 << 45], "data_offsets": [0, 1 << 47]}}, data
    ),
    "claims more bytes than a shape has": _stretch,
    "claims overlapping tensors": _overlap,
    "claims fewer bytes than there are": lambda header, data: safetensors_bytes(header, data + bytes(4)),
    "claims more bytes than there are": lambda header, data: safetensors_bytes(header, data[:-4]),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_weights_are_refused_when_their_header(
    folder: Path, refuses: Refuses, lie: Callable[[Json, bytes], bytes]
) -> None:
    path = folder / "weights.safetensors"
    header, data = split_safetensors(path)
    header.pop("__metadata__", None)
    path.write_bytes(lie(header, data))
    fix_hashes(folder)
    refuses(folder, "weights.safetensors")


def test_metadata_of_weights_that_is_only_unusual_is_ignored(folder: Path, opens: Callable[[Path], None]) -> None:
    path = folder / "weights.safetensors"
    header, data = split_safetensors(path)
    header["__metadata__"] = {"nested": _nested(510), "pair": "\U0001f964", "backslash": "\\ud800", "number": 1e308}
    path.write_bytes(safetensors_bytes(header, data))
    fix_hashes(folder)
    opens(folder)


@pytest.mark.parametrize("name", ["weights.safetensors", "text-encoder.safetensors", "decoder.safetensors"])
@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_every_weights_file_is_refused_when_its_header(
    text_folder: Path, refuses: Refuses, name: str, lie: Callable[[Json, bytes], bytes]
) -> None:
    path = text_folder / name
    header, data = split_safetensors(path)
    header.pop("__metadata__", None)
    path.write_bytes(lie(header, data))
    fix_hashes(text_folder)
    refuses(text_folder, name)
