"""Schedules of other tools: read into a Schedule, written from one, by the tool's name. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ...models.identity import ModelIdentity
from ..schedule import Schedule
from .cache_dit import cache_dit_text, read_cache_dit
from .smoothcache import read_smoothcache, smoothcache_text

Tool = Literal["smoothcache", "cache-dit"]


@dataclass(frozen=True)
class Interchange:
    """read(file's bytes, model, steps) and write(schedule, model); both raise PlanError."""

    read: Callable[[bytes, ModelIdentity, int], Schedule]
    write: Callable[[Schedule, ModelIdentity], bytes]


TOOLS: dict[Tool, Interchange] = {
    "smoothcache": Interchange(read_smoothcache, smoothcache_text),
    "cache-dit": Interchange(read_cache_dit, cache_dit_text),
}
