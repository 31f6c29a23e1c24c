"""What callers and command lines give for a LoRA: a file, alone or with a strength."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from ..errors import RequestError

LoraArgument = str | os.PathLike[str] | tuple[str | os.PathLike[str], float]
"""A file, or a file and its strength; 1 without."""


def read_argument(given: object) -> tuple[Path, float]:
    """The file and its strength. Raises RequestError."""
    file, strength = given if isinstance(given, tuple) and len(given) == 2 else (given, 1.0)
    if not isinstance(file, (str, os.PathLike)):
        raise RequestError(f"lora {given!r:.80}: give a file, or (file, strength)")
    return Path(file), read_strength(strength)


def read_strength(strength: Any) -> float:
    """A finite number. Raises RequestError."""
    try:
        value = float("nan") if isinstance(strength, (bool, str)) else float(strength)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise RequestError(f"lora strength {strength!r:.40}: give a number; 1 is the LoRA as it was trained")
    return value


def parse_lora(given: str) -> tuple[Path, float]:
    """FILE or FILE:STRENGTH of a command line -> both, 1.0 without a strength. Raises RequestError."""
    file, colon, strength = given.rpartition(":")
    if not colon or Path(given).exists():
        return Path(given), 1.0
    try:
        value = float(strength)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        what = f"{strength!r} is no strength" if file else "no file is named"
        raise RequestError(f"--lora {given}: {what}; write FILE or FILE:STRENGTH, as in style.safetensors:0.8")
    return Path(file), value
