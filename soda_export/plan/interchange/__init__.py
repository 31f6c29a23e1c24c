"""Schedules of other tools: read into a Schedule, written from one, by the tool's name. No torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from ...models.identity import ModelIdentity
from ..schedule import Schedule
from .cache_dit import cache_dit_text, read_cache_dit
from .dpcache import read_dpcache
from .ecad import read_ecad
from .ones import Ones
from .sd_cpp import read_sd_cpp
from .smoothcache import read_smoothcache, smoothcache_text

Source = Literal["smoothcache", "cache-dit", "ecad", "stable-diffusion.cpp", "dpcache"]
"""Tools whose files are read."""
Tool = Literal["smoothcache", "cache-dit"]
"""Tools whose files are written."""

READERS: dict[Source, Callable[[bytes, ModelIdentity, int, Ones], Schedule]] = {
    "smoothcache": read_smoothcache,
    "cache-dit": read_cache_dit,
    "ecad": read_ecad,
    "stable-diffusion.cpp": read_sd_cpp,
    "dpcache": read_dpcache,
}
"""read(file's bytes, model, steps, what a one means); raises PlanError."""
WRITERS: dict[Tool, Callable[[Schedule, ModelIdentity], bytes]] = {
    "smoothcache": smoothcache_text,
    "cache-dit": cache_dit_text,
}
"""write(schedule, model); raises PlanError where the tool's file cannot say it."""
