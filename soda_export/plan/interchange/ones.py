"""Lists of ones and zeros, compute and reuse: checked on the way in, and on the way out what they cannot say."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import PlanError
from ...models.decisions import COMPUTE, IDLE, REUSE, is_renewal
from ...models.identity import ModelIdentity
from ...models.spec import STACK
from ..schedule import Schedule


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


def schedule_of(computed: NDArray[np.bool_], model: ModelIdentity) -> Schedule:
    """computed: [S, K] whether each site computes; the stack always does."""
    work = np.where(computed, COMPUTE, REUSE).astype(np.int64)
    work[:, list(model.kinds.get(STACK, ()))] = COMPUTE
    return Schedule(work)


def computes(schedule: Schedule, model: ModelIdentity, tool: str) -> NDArray[np.bool_]:
    """Whether each site computes, [S, K]. Raises PlanError where the schedule does more than compute or reuse."""
    work, stack = schedule.work, list(model.kinds.get(STACK, ()))
    skipped = np.flatnonzero((work[:, stack] != COMPUTE).any(axis=1) | np.array(schedule.skips))
    if skipped.size:
        raise PlanError(f"step {skipped[0]}: all blocks are skipped; a {tool} file can only reuse modules")
    early = np.flatnonzero(work[0] == REUSE)
    if early.size:
        where = f"step 0, {model.names[early[0]]}"
        raise PlanError(f"{where}: nothing is cached yet; the first step must compute everything")
    other = np.argwhere((work != REUSE) & (work != COMPUTE))
    if other.size:
        step, k = (int(i) for i in other[0])
        does = f"is forecast at order {-work[step, k]}"
        if is_renewal(work[step, k]):
            does = f"computes {work[step, k]} of {model.site_tokens[k]} tokens"
        elif work[step, k] == IDLE:
            does = "is idle, since what contains it is reused"
        raise PlanError(f"step {step}, {model.names[k]}: {does}; a {tool} file can only say compute or reuse")
    result: NDArray[np.bool_] = work == COMPUTE
    return result
