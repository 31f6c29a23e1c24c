"""SmoothCache (arXiv 2411.10510): a module is reused while its calibrated error stays below one threshold.

As in its released calibration, from the first step on: compute, then skip the largest number of steps k <= max_skip
whose error at distance k, mean over the layers, is at most the threshold; the last step is computed. The released code
measures relative L1; here it is the metric that the map was measured with.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...errors import PlanError
from ...models.flops import fixed_flops, full_step_flops
from ..problem import Problem, Target
from ..schedule import Schedule
from .flops_table import FlopsTable
from .targets import asked, check_budget, check_one_given, measured, unreachable, within_tolerance

MAX_SKIP = 3


def plan_smoothcache(problem: Problem, target: Target, max_skip: int = MAX_SKIP, per_block: bool = False) -> Schedule:
    """The threshold that meets the target; a budget stands for the FLOPs of that many full steps.

    per_block: every (layer, module) has a list of its own, not every module one for all layers. Between two thresholds
    the first (layer, module) pairs follow the lower one. Raises PlanError.
    """
    check_one_given(target)
    error = measured(problem).reuse_error.astype(np.float64)
    if not 1 <= max_skip <= error.shape[3]:
        raise PlanError(f"max_skip {max_skip}: the map has errors of 1 .. {error.shape[3]} steps")
    error = error[..., :max_skip]
    if not per_block:
        error = np.broadcast_to(error.mean(axis=1, keepdims=True), error.shape)
    ratio = target.flops_ratio or _ratio_of(problem, target.budget)
    return _meet(problem, error, ratio, asked(target, ratio))


def reuse_while_below(error: NDArray[np.float64], threshold: float) -> NDArray[np.bool_]:
    """Which steps compute: [S, ...] for error [S, ..., K], last axis = distance 1 .. K."""
    steps, most = error.shape[0], error.shape[-1]
    computes = np.ones(error.shape[:-1], bool)
    due = np.zeros(error.shape[1:-1], np.int64)  # step at which each module computes next
    for t in range(steps):
        skip = np.zeros_like(due)
        for k in range(1, min(most, steps - 1 - t) + 1):
            skip = np.where(error[t + k, ..., k - 1] <= threshold, k, skip)
        computes[t] = due == t
        due = np.where(due == t, t + 1 + skip, due)
    computes[-1] = True
    return computes


def _meet(problem: Problem, error: NDArray[np.float64], ratio: float, given: str) -> Schedule:
    table, wanted = FlopsTable(problem), problem.full_flops / ratio

    def at(threshold: float) -> Schedule:
        return Schedule.of(np.where(reuse_while_below(error, threshold), problem.spec.num_tokens, 0).astype(np.int64))

    thresholds = np.concatenate([[-np.inf], np.unique(error[np.isfinite(error)])])
    low, high = 0, len(thresholds) - 1
    if table.flops(at(thresholds[high])) > wanted:
        if not within_tolerance(problem, table.flops(at(thresholds[high])), ratio):
            raise unreachable(given, 1.0, problem.full_flops / table.flops(at(thresholds[high])))
        low = high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if table.flops(at(thresholds[middle])) >= wanted else (low, middle)
    offers = _between(at(thresholds[low]), at(thresholds[high]))
    best = min(offers, key=lambda offer: abs(table.flops(offer) - wanted))
    if not within_tolerance(problem, table.flops(best), ratio):
        near = problem.full_flops / table.flops(best)
        raise PlanError(f"{given}: thresholds of this map reach {near:.3f} at the nearest; give that")
    return best


def _between(more: Schedule, less: Schedule) -> list[Schedule]:
    """Schedules whose first none, one, ... all (layer, module) pairs follow `more`, the others `less`."""
    slots = np.arange(more.kept[0].size).reshape(more.kept.shape[1:])
    return [Schedule.of(np.where(slots < first, more.kept, less.kept)) for first in range(slots.size + 1)]


def _ratio_of(problem: Problem, budget: int) -> float:
    """FLOPs ratio of that many anchors with everything reused in between."""
    check_budget(budget, min(2, problem.steps), problem.steps)
    full, fixed = full_step_flops(problem.spec, problem.rows), fixed_flops(problem.spec, problem.rows)
    return problem.full_flops / (budget * full + (problem.steps - budget) * fixed)
