"""Options of an evaluation. The one home of each; the command line reads them. No torch: help pages read this."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .seeds import HELD_OUT_SEEDS

MOST_BATCH = 4096
"""Samples that may be drawn together."""


@dataclass(frozen=True)
class EvalOptions:
    """What to draw."""

    seeds: str = HELD_OUT_SEEDS
    """Seeds A:B, B exclusive, one sample each; not 0 and 1, which profiling and planning use."""
    batch: int = 32
    """Samples drawn together; the scores do not depend on it."""
    against: Literal["itself", "model"] = "itself"
    """What bundles are held against: the bundle with everything computed, or the model in torch in fp32, which shows
    what the precision and the backend cost, too."""
    size: str = ""
    """Height x width in pixels, of bundles of several sizes and of the plans' model. [default: a row for each size of a
    bundle; the model's own]"""
    hints: Path | None = None
    """ControlNets: folder of pictures, in the order of their names one a prompt; of several ControlNets, a folder for
    each port in it. [default: of built-in models what the prompts say, else noise]"""
