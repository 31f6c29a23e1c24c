"""Lists of ones and zeros, compute and reuse: checked on the way in, and on the way out what they cannot say."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import PlanError
from ...models.identity import ModelIdentity
from ..schedule import BLOCKS_RUN, Schedule


def read_ones(entries: Any, steps: int, where: str) -> NDArray[np.bool_]:
    """Whether each step computes, [S]; exactly `steps` entries 0 or 1, the first 1. Raises PlanError."""
    if not isinstance(entries, list):
        raise PlanError(f"{where}: expected a list of 0 and 1")
    odd = next((i for i, entry in enumerate(entries) if type(entry) is not int or entry not in (0, 1)), None)
    if odd is not None:
        raise PlanError(f"{where}: entry {odd} is {entries[odd]!r:.40}; only 0 (reuse) and 1 (compute) are possible")
    if len(entries) != steps:
        raise PlanError(f"{where}: has {len(entries)} steps, the sampler {steps}; pass --steps {len(entries)}")
    if not entries[0]:
        raise PlanError(f"{where}: entry 0 is 0, but nothing is cached before the first step")
    return np.array(entries, bool)


def computes(schedule: Schedule, model: ModelIdentity, tool: str) -> NDArray[np.bool_]:
    """Whether each module computes, [S, L, M]. Raises PlanError where the schedule does more than compute or reuse."""
    skipped = np.flatnonzero(schedule.stack != BLOCKS_RUN)
    if skipped.size:
        raise PlanError(f"step {skipped[0]}: all blocks are skipped; a {tool} file can only reuse modules")
    other = np.argwhere((schedule.kept != 0) & (schedule.kept != model.num_tokens))
    if other.size:
        step, layer, m = (int(i) for i in other[0])
        keep = int(schedule.kept[step, layer, m])
        does = f"computes {keep} of {model.num_tokens} tokens" if keep > 0 else f"is forecast at order {-keep}"
        raise PlanError(
            f"step {step}, layer {layer}, {model.modules[m]}: {does}; a {tool} file can only say compute or reuse"
        )
    result: NDArray[np.bool_] = schedule.kept == model.num_tokens
    return result
