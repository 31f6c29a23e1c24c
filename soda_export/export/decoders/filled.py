"""Parts that are not loaded by diffusers: built, then filled from their folder, or left with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from ...errors import ModelError, UsageError, first_line
from ..tensor_file import Checkpoint, refuse_pickled
from .source import DecoderSource

Part = TypeVar("Part", bound=nn.Module)


def filled(source: DecoderSource, part: str, build: Callable[[], Part]) -> Part:
    """What `build` gives, in evaluation mode, with the part's weights; what its folder has besides does not matter.

    Raises ModelError, and UsageError for a part without a folder or a seed.
    """
    place = source.parts[part]
    if not isinstance(place, Path) and source.seed is None:
        raise UsageError(f"a {part} without a folder needs a seed for its random weights")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(source.seed or 0)
        try:
            module = build().eval()
        except Exception as error:  # of whichever library builds it
            raise ModelError(f"{source.where(part)}: it cannot be built: {first_line(error)}") from None
    if isinstance(place, Path):
        refuse_pickled(place)
        _fill(module, place, Checkpoint(place, source.variant))
    return module


def _fill(module: nn.Module, place: Path, stored: Checkpoint) -> None:
    state = module.state_dict()
    missing = [name for name in state if name not in stored]
    if missing:
        raise ModelError(f"{place}: the weights lack {min(missing)!r}; it does not fit config.json")
    for name in sorted(state, key=stored.file_of):  # one file after the other
        found, own = stored.shape(name), state[name]
        if found != tuple(own.shape):
            raise ModelError(f"{place}: {name!r} is {list(found)}, config.json says {list(own.shape)}")
        own.copy_(stored.read(name))
