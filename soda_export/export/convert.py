"""Pickled weights to .safetensors beside them, without running what a pickle may hold."""

from __future__ import annotations

import json
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelError, first_line
from ..files import write_whole
from ..models.checkpoint import pickled_files
from ..models.published import read_json
from .tensor_file import DTYPES, TensorSource, write_tensors

_PICKLED_NAMES = {"diffusion_pytorch_model": "diffusion_pytorch_model", "pytorch_model": "model"}
"""How names of pickles begin -> how diffusers and transformers begin the name of the .safetensors file"""


@dataclass(frozen=True)
class Converted:
    """A .safetensors file that was written."""

    path: Path
    tensors: int
    bytes: int


def convert_folder(folder: Path) -> list[Converted]:
    """Convert every component of a pipeline folder, or a bare component, that has pickles only. Raises ModelError.

    The pickles stay. A component that has .safetensors already is left as it is, unless some are missing of those that
    its pickles become: a conversion that was killed goes on.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such folder; give a diffusers pipeline folder")
    components = [path for path in [folder, *sorted(folder.iterdir())] if path.is_dir()]
    pickled = [path for path in components if (path / "config.json").is_file() and pickled_files(path)]
    if not pickled and not any(list(path.glob("*.safetensors")) for path in components):
        raise ModelError(f"{folder}: no component (a folder with config.json) has weights; give a diffusers folder")
    return [
        converted
        for component in pickled
        if not list(component.glob("*.safetensors")) or _is_half_done(component)
        for converted in _convert_component(component)
    ]


def _names(component: Path) -> dict[str, str]:
    """Pickle -> its .safetensors."""
    pickles = pickled_files(component)
    diffusers = "_class_name" in read_json(component / "config.json", "")
    lone = ("diffusion_pytorch_model" if diffusers else "model") if len(pickles) == 1 else None
    return {path.name: _safe_name(path.name, lone) for path in pickles}


def _is_half_done(component: Path) -> bool:
    wanted = [component / name for name in _names(component).values()]
    wanted += [_safe_index(index) for index in component.glob("*.bin.index.json")]
    made = [path.exists() for path in wanted]
    return any(made) and not all(made)


def _convert_component(component: Path) -> list[Converted]:
    pickles, names = pickled_files(component), _names(component)
    made = []
    try:
        for path in pickles:
            made.append(_convert_file(path, component / names[path.name]))
        for index in component.glob("*.bin.index.json"):
            _convert_index(index, names)
    except BaseException:
        for converted in made:  # half a component would pass for a whole one
            converted.path.unlink(missing_ok=True)
        raise
    return made


def _safe_name(name: str, lone: str | None) -> str:
    """The name that diffusers and transformers look for. lone: the stem where the component has one file."""
    stem = Path(name).stem
    for begin, safe in _PICKLED_NAMES.items():
        if stem.startswith(begin):
            return f"{safe}{stem.removeprefix(begin)}.safetensors"
    return f"{lone or stem}.safetensors"


def _convert_file(path: Path, out: Path) -> Converted:
    import torch

    sources = []
    for key, value in _read_pickle(path).items():
        if not isinstance(value, torch.Tensor):
            raise ModelError(f"{path}: {key!r} is no tensor but {type(value).__name__}; only weights can be converted")
        if value.dtype not in DTYPES:
            raise ModelError(f"{path}: {key!r} is of {value.dtype}, which a .safetensors file of weights does not have")
        sources.append(TensorSource(str(key), value.dtype, tuple(value.shape), value.to_dense))
    write_tensors(out, sources, metadata={"format": "pt"})  # without it transformers does not read the file
    return Converted(out, len(sources), out.stat().st_size)


def _read_pickle(path: Path) -> dict[Any, Any]:
    """The state dict of a checkpoint, mapped rather than read where its format allows."""
    import torch

    try:
        state = torch.load(path, weights_only=True, map_location="cpu", mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        reason = next((line.strip() for line in str(error).splitlines() if "GLOBAL" in line or "global" in line), "")
        detail = f" ({reason[:160]})" if reason else ""
        raise ModelError(
            f"{path}: refused: it holds more than tensors, which could run code when loaded{detail}; "
            "get the weights as .safetensors from whoever made them"
        ) from None
    except Exception as error:
        reason = first_line(error)
        raise ModelError(f"{path}: not a readable PyTorch checkpoint ({reason}); download it again") from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not state:
        raise ModelError(f"{path}: holds no weights by name; only a state dict can be converted")
    return state


def _safe_index(index: Path) -> Path:
    """Where the index of the .safetensors lies that belongs to an index of pickles."""
    return index.with_name(f"{_safe_name(index.name.removesuffix('.index.json'), None)}.index.json")


def _convert_index(index: Path, names: dict[str, str]) -> None:
    content = read_json(index, "")
    places = content.get("weight_map")
    if not isinstance(places, dict):
        raise ModelError(f"{index}: weight_map must say which file has which tensor")
    absent = sorted({str(name) for name in places.values()} - names.keys())
    if absent:
        raise ModelError(f"{index.parent / absent[0]}: missing, but {index.name} names it; download the folder again")
    content["weight_map"] = {key: names[name] for key, name in places.items()}
    write_whole(_safe_index(index), (json.dumps(content, indent=2) + "\n").encode())
