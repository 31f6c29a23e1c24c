"""Manifests that lie, by what is wrong with them, and unusual ones that do not."""

from __future__ import annotations

from .files import FILES
from .finish import FINISH
from .old import V1_LIES, V4_LIES
from .ports import PORTS
from .programs import PROGRAMS
from .prompts import TEXT_LIES
from .schema import SCHEMA
from .sizes import SIZES
from .tensors import TENSORS
from .truths import TRUTHS

LIES = SCHEMA | SIZES | FILES | TENSORS | PORTS | PROGRAMS | FINISH

__all__ = ["LIES", "TEXT_LIES", "TRUTHS", "V1_LIES", "V4_LIES"]
