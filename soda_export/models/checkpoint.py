"""Weights on disk: which files a component folder has, and what they hash to."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ..errors import ModelError
from .published import read_json

PICKLES = (".bin", ".pt", ".ckpt", ".pth")
"""Suffixes of weights that are pickles: loading one can run code."""
_NAMES = ("diffusion_pytorch_model", "model")  # of diffusers' and transformers' weights


class OneFile:
    """Of several .safetensors files, one is mapped at a time."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._file: Any = None

    def open(self, path: Path) -> Any:
        """The file, for torch. Raises SafetensorError and OSError."""
        if self._path != path:
            self._path = self._file = None  # the last one is unmapped before the next is mapped
            self._file = safe_open(path, framework="pt")
            self._path = path
        return self._file


def weight_files(folder: Path) -> list[Path]:
    """The .safetensors files of a component folder, by its index where it has one. Raises ModelError."""
    for name in _NAMES:
        index = folder / f"{name}.safetensors.index.json"
        if index.is_file():
            return _shards(index)
        if (folder / f"{name}.safetensors").is_file():
            return [folder / f"{name}.safetensors"]
    found = sorted(folder.glob("*.safetensors"))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ModelError(f"{folder}: {names}: none of them is {_NAMES[0]}.safetensors; rename the one to use")
    if found:
        return found
    pickles = pickled_files(folder)
    if pickles:
        pipeline = folder.parent if (folder.parent / "model_index.json").exists() else folder
        raise ModelError(
            f"{folder}: no .safetensors weights, only {pickles[0].name}, a pickle, and loading one can run code; "
            f"convert it once, safely: soda-export convert {pipeline}"
        )
    raise ModelError(f"{folder}: no .safetensors weights; save the model with safe_serialization=True")


def pickled_files(folder: Path) -> list[Path]:
    """Pickled weights of a component folder."""
    return sorted(path for path in folder.iterdir() if path.suffix in PICKLES) if folder.is_dir() else []


def _shards(index: Path) -> list[Path]:
    places = read_json(index, "").get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise ModelError(f"{index}: weight_map must say which file has which tensor")
    shards = []
    for name in sorted(set(places.values())):
        shard = index.parent / name
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelError(f"{index}: {name!r} is no name of a .safetensors file beside it")
        if not shard.is_file():
            raise ModelError(f"{shard}: missing, but {index.name} names it; download the folder again")
        shards.append(shard)
    return shards


def hash_model(transformer: Path) -> str:
    """SHA-256 over the names and contents of the configuration and the weights."""
    files = weight_files(transformer)
    digest = hashlib.sha256()
    indices = [path for path in transformer.glob("*.safetensors.index.json") if len(files) > 1]
    for path in sorted([transformer / "config.json", *files, *indices]):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.name}={content}\n".encode())
    return digest.hexdigest()


def hash_files(*folders: Path) -> dict[str, str]:
    """Folder and name -> SHA-256 of each file that a part of a pipeline is read from."""
    hashes = {}
    for folder in folders:
        for path in sorted(folder.iterdir()):
            if path.is_file() and path.suffix in (".json", ".safetensors", ".model", ".txt"):
                with path.open("rb") as file:
                    hashes[f"{folder.name}/{path.name}"] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes
