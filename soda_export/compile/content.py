"""A hash of what one graph computes: its nodes and the values of its weights, wherever those lie in their file."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import onnx


def graph_content(path: Path) -> str:
    """64 hex digits. Graphs of different names, and of weights files of different order, may be equal."""
    model = onnx.load(str(path), load_external_data=False)
    digest = hashlib.sha256()
    for tensor in model.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        place = {entry.key: entry.value for entry in tensor.external_data}
        file = path.parent / place["location"]
        begin, length = int(place.get("offset", 0)), int(place["length"])
        digest.update(f"{tensor.name} {_hash_range(file, file.stat().st_mtime_ns, begin, length)}\n".encode())
        del tensor.external_data[:]
    model.graph.name = ""
    digest.update(model.SerializeToString(deterministic=True))
    return digest.hexdigest()


def weights_file(path: Path) -> str:
    """Name of the weights file that a graph points to, "" where it has all its weights itself."""
    graph = onnx.load(str(path), load_external_data=False).graph
    places = (entry for tensor in graph.initializer for entry in tensor.external_data if entry.key == "location")
    return next((str(entry.value) for entry in places), "")


@lru_cache(maxsize=8192)
def _hash_range(file: Path, modified_ns: int, begin: int, length: int) -> str:
    """SHA-256 of bytes begin .. begin + length - 1; programs share most weights, so each is read once."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        stream.seek(begin)
        while length > 0:
            chunk = stream.read(min(length, 16 << 20))
            if not chunk:
                break
            digest.update(chunk)
            length -= len(chunk)
    return digest.hexdigest()
