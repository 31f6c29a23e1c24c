"""Lists of ones and zeros, compute and reuse: checked on the way in, and on the way out what they cannot say."""

from __future__ import annotations

import re
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import PlanError
from ...models.decisions import COMPUTE, IDLE, REUSE, is_renewal
from ...models.identity import ModelIdentity
from ...models.spec import STACK
from ..schedule import Schedule

Ones = Literal["computed", "cached"]
"""What a one in a file marks. The tools' own files mark what is computed."""


def read_ones(entries: Any, steps: int, where: str, ones: Ones = "computed") -> NDArray[np.bool_]:
    """Whether each step computes, [S]; exactly `steps` entries 0 or 1, the first step computed. Raises PlanError."""
    if not isinstance(entries, list):
        raise PlanError(f"{where}: expected a list of 0 and 1")
    odd = next((i for i, entry in enumerate(entries) if type(entry) is not int or entry not in (0, 1)), None)
    if odd is not None:
        raise PlanError(f"{where}: entry {odd} is {entries[odd]!r:.40}; only 0 and 1 are possible")
    check_steps(len(entries), steps, where)
    computed: NDArray[np.bool_] = np.array(entries, bool) == (ones == "computed")
    if not computed[0]:
        other = "cached" if ones == "computed" else "computed"
        raise PlanError(
            f"{where}: entry 0 is {entries[0]}, but nothing is cached before the first step; if ones mark what is "
            f"{other}, pass --ones {other}"
        )
    return computed


def read_digits(text: str) -> list[int] | None:
    """`1101`, or the same with commas or spaces between; None for anything else."""
    digits = re.sub(r"[,\s]+", "", text, flags=re.ASCII)
    return [int(digit) for digit in digits] if re.fullmatch("[01]+", digits) else None


def check_steps(found: int, steps: int, where: str) -> None:
    """Raises PlanError where a file is for another number of steps."""
    if found != steps:
        raise PlanError(f"{where}: has {found} steps, the sampler {steps}; pass --steps {found}")


def forecast_order(computed: NDArray[np.bool_], order: int) -> list[int]:
    """For each step the order of the forecast that its history allows, `order` at most. computed: [S]."""
    before: list[int] = (np.cumsum(computed) - computed).tolist()
    return [min(order, max(0, count - 1)) for count in before]


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
