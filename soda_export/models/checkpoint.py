"""Weights on disk: which files a component folder has, and what they hash to."""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from ..errors import ModelError
from .published import read_json

if TYPE_CHECKING:
    from torch import Tensor

PICKLES = (".bin", ".pt", ".ckpt", ".pth")
"""Suffixes of weights that are pickles: loading one can run code."""
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
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


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor has neither NaN nor infinity; one pass, no copy."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    low, high = (tensor if tensor.dtype.itemsize > 1 else tensor.float()).aminmax()
    return math.isfinite(float(low)) and math.isfinite(float(high))


def check_finite(tensor: Tensor, path: Path, name: str) -> Tensor:
    """The tensor, or ModelError where a checkpoint is spoilt."""
    if not is_finite(tensor):
        raise ModelError(f"{path}: {name!r} has NaN or infinity; get the checkpoint again, or another revision")
    return tensor


def weight_files(folder: Path, variant: str = "") -> list[Path]:
    """The .safetensors files of a component folder, by its index where it has one. Raises ModelError."""
    entry = weights_entry(folder, variant)
    return _shards(entry) if entry.suffix == ".json" else [entry]


def tensor_shapes(folder: Path, variant: str = "") -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of a component folder, from headers alone. Raises ModelError."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in weight_files(folder, variant):
        try:
            with safe_open(path, framework="np") as file:
                shapes |= {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path}: not a readable .safetensors file ({error}); get it again") from None
    return shapes


def chosen_variant(folder: Path, variant: str) -> str:
    """Which of a folder's weights are taken, by diffusers' word for it (fp16, non_ema): those that are asked for, else
    the ones without a word, else the only ones. Raises ModelError where that leaves several."""
    found = _variants(folder)
    for choice in (variant, "", *found):
        if choice in found and (choice in (variant, "") or len(found) == 1):
            return choice
    if found:
        raise ModelError(f"{folder}: has weights of {', '.join(sorted(found))}; choose with --variant {min(found)}")
    return ""


def weights_entry(folder: Path, variant: str = "") -> Path:
    """The file that has a component's weights, or the index that lists several. Raises ModelError."""
    found, choice = _variants(folder), chosen_variant(folder, variant)
    return found[choice] if choice in found else _lone_file(folder)


def _variants(folder: Path) -> dict[str, Path]:
    """Variant -> its index, or its one file; "" is the one without a word."""
    found: dict[str, Path] = {}
    for name in _NAMES:
        form = re.compile(rf"{name}(?:\.([\w-]+))?\.safetensors(?:\.index(?:\.([\w-]+))?\.json)?")
        for path in sorted(folder.glob(f"{name}*")):
            match = form.fullmatch(path.name)
            if match and path.is_file() and not _SHARD.search(match[1] or ""):
                found[match[1] or match[2] or ""] = path  # an index comes after the file in order, and counts
        if found:
            break
    return found


def _lone_file(folder: Path) -> Path:
    found = sorted(folder.glob("*.safetensors"))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ModelError(f"{folder}: {names}: none of them is {_NAMES[0]}.safetensors; rename the one to use")
    if found:
        return found[0]
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


def hash_model(transformer: Path, variant: str = "") -> str:
    """SHA-256 over the names and contents of the configuration and the weights."""
    files = weight_files(transformer, variant)
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
