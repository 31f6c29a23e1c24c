"""From a range of seeds, A:B, to the noise of its samples.

The sample of seed s has the noise normal(s, stream, row 0): it depends on neither the batch nor the range it is drawn
in. A profile has one seed, 0 unless told otherwise, planning another, 1, and their samples are the rows of it. So any
range without those two is noise that neither saw; HELD_OUT_SEEDS lies far from all seeds that people type.
"""

from __future__ import annotations

import re

import numpy as np
from soda_runtime import Noise
from soda_runtime.philox import INITIAL_STREAM, normal

from ..errors import UsageError
from ..options import PLAN_SEED

HELD_OUT_SEEDS = "1000000:1000256"
_MAX_SAMPLES = 1_000_000
_LAST_SEED = 2**64 - 1


def parse_seeds(text: str) -> range:
    """`A:B` -> the seeds A .. B-1. Raises UsageError."""
    match = re.fullmatch(r"\s*([0-9]{1,20}):([0-9]{1,20})\s*", text)
    if match is None:
        raise UsageError(f"--seeds {text}: give a range A:B of whole numbers, B exclusive, e.g. {HELD_OUT_SEEDS}")
    first, stop = (int(part) for part in match.groups())
    if not 2 <= stop - first <= _MAX_SAMPLES or stop - 1 > _LAST_SEED:
        raise UsageError(f"--seeds {text}: holds {max(0, stop - first)} seeds; give 2 to {_MAX_SAMPLES} below 2**64")
    return range(first, stop)


def seeds_text(seeds: range) -> str:
    """`A:B`."""
    return f"{seeds.start}:{seeds.stop}"


def check_held_out(seeds: range, profile_seed: int) -> None:
    """Refuse seeds whose noise the profile or the planner saw. Raises UsageError."""
    for used, who in ((profile_seed, "profile"), (PLAN_SEED, "planner")):
        if used in seeds:
            raise UsageError(f"--seeds {seeds_text(seeds)}: {used} is the {who}'s seed; give a range without it")


def seed_noise(seeds: range, shape: tuple[int, ...], steps: int) -> Noise:
    """Noise of each seed's sample: initial [B, C, H, W], and [steps, B, C, H, W] with steps above 0."""
    count = int(np.prod(shape))

    def stream(number: int) -> np.ndarray:
        return np.stack([normal(seed, number, 0, count) for seed in seeds]).reshape(len(seeds), *shape)

    return Noise(stream(INITIAL_STREAM), np.stack([stream(1 + i) for i in range(steps)]) if steps else None)
