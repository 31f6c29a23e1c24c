"""Keep every forecast within its history: a Taylor expansion of order o needs o + 1 computed outputs."""

from __future__ import annotations

import numpy as np

from ..schedule import BLOCKS_RUN, Schedule


def limit_orders(schedule: Schedule, num_tokens: int) -> Schedule:
    """Lower the order of each forecast to what its own slot allows: (outputs computed before the step) - 1.

    Only outputs of all tokens count; where all blocks are skipped, no module computes. The last block's output is
    computed wherever the blocks run.
    """
    runs = schedule.stack == BLOCKS_RUN
    past = _before((schedule.kept == num_tokens) & runs[:, None, None])
    kept = np.where(schedule.kept < 0, np.maximum(schedule.kept, np.minimum(1 - past, 0)), schedule.kept)
    stack = np.where(runs, BLOCKS_RUN, np.minimum(schedule.stack, np.maximum(_before(runs) - 1, 0)))
    return Schedule(kept, stack)


def _before(computed: np.ndarray) -> np.ndarray:
    """How many earlier steps computed it."""
    counts: np.ndarray = np.cumsum(computed, axis=0) - computed
    return counts
