"""The LoRA files of a server, by the names that requests call them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import RequestError
from ..lora import parse_lora
from .options import ServeOptions

_ENDING = ".safetensors"


@dataclass(frozen=True)
class ServedLora:
    """strength: of requests that name no LoRA at all."""

    name: str
    path: Path
    strength: float


def find_loras(options: ServeOptions) -> tuple[ServedLora, ...]:
    """Those of --lora, then those of --lora-folder by name. Raises RequestError."""
    found = [_named(path, strength) for path, strength in map(parse_lora, options.lora)]
    if options.lora_folder:
        folder = Path(options.lora_folder)
        if not folder.is_dir():
            raise RequestError(f"--lora-folder {folder}: no such folder")
        files = sorted(folder.glob(f"*{_ENDING}"))
        if not files:
            raise RequestError(f"--lora-folder {folder}: there is no {_ENDING} file in it")
        given = {lora.path.resolve() for lora in found}
        found += [_named(path, 0.0) for path in files if path.resolve() not in given]
    names = [lora.name for lora in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RequestError(f"--lora: two files are called {twice!r:.80}, which is how requests name them; rename one")
    return tuple(found)


def _named(path: Path, strength: float) -> ServedLora:
    return ServedLora(path.name.removesuffix(_ENDING), path, strength)


def choose_strengths(served: Mapping[str, float], asked: Mapping[str, float] | None) -> tuple[float, ...]:
    """One for each that is served: of those that a request names the strengths that it gives, 0 of others; without
    any, those that the server was started with."""
    return tuple(served.values()) if asked is None else tuple(asked.get(name, 0.0) for name in served)
