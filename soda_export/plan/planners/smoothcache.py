"""SmoothCache (arXiv 2411.10510): a site is reused while its calibrated error stays below one threshold.

As in its released calibration, from the first step on: compute, then skip the largest number of steps k <= max_skip
whose error at distance k, mean over the sites of a kind, is at most the threshold; the last step is computed. The
released code measures relative L1; here it is the metric that the map was measured with.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...errors import PlanError
from ...models.decisions import COMPUTE, REUSE
from ...models.spec import ModelSpec
from ..problem import Problem, Target
from ..schedule import Schedule
from .flops_table import FlopsTable
from .periods import fewest_anchors
from .targets import check_budget, check_one_given, measured, unreachable, within_tolerance

MAX_SKIP = 3


def plan_smoothcache(problem: Problem, target: Target, max_skip: int = MAX_SKIP, per_site: bool = False) -> Schedule:
    """The threshold that meets a FLOPs ratio. A budget is met by one list for all sites, of their mean error.

    per_site: every site has a list of its own, not all of a kind one. Between two thresholds the first sites follow the
    lower one. Raises PlanError.
    """
    check_one_given(target)
    error, spec = measured(problem).reuse_error.astype(np.float64), problem.spec
    if not 1 <= max_skip <= error.shape[2]:
        raise PlanError(f"max_skip {max_skip}: the map has errors of 1 .. {error.shape[2]} steps")
    error = error[:, list(spec.leaves), :max_skip]
    if target.budget:
        check_budget(target.budget, fewest_anchors(problem.steps), problem.steps)
        return _meet_budget(problem, error.mean(axis=1), target.budget)
    if not per_site:
        kinds = np.array([spec.sites[k].kind for k in spec.leaves])
        for kind in set(kinds):
            error[:, kinds == kind] = error[:, kinds == kind].mean(axis=1, keepdims=True)
    return _meet_ratio(problem, error, target.flops_ratio)


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


def _meet_budget(problem: Problem, error: NDArray[np.float64], budget: int) -> Schedule:
    """Exactly `budget` anchors for the error [S, K] of all sites together: the first threshold that has no more, and up
    to some step the one before. Moving that step by one changes the number by one at most, so every number is met."""
    before: tuple[int, ...] = ()
    for threshold in _thresholds(error):
        after = tuple(np.flatnonzero(reuse_while_below(error, threshold)).tolist())
        if len(after) <= budget:
            mixed = [
                (*(t for t in before if t < switch), *(t for t in after if t >= switch))
                for switch in range(problem.steps + 1)
            ]
            fitting = [anchors for anchors in mixed if len(anchors) == budget and anchors[0] == 0]
            if fitting:
                anchors = min(fitting, key=lambda anchors: max(np.diff(anchors), default=1))
                return Schedule.at_anchors(problem.spec, problem.steps, anchors)
        before = after
    raise PlanError(
        f"--budget {budget}: this planner reuses at most {error.shape[1]} steps in a row; "
        f"give {len(before)} .. {problem.steps} anchors"
    )


def _meet_ratio(problem: Problem, error: NDArray[np.float64], ratio: float) -> Schedule:
    table, wanted, spec = FlopsTable(problem), problem.full_flops / ratio, problem.spec
    given, thresholds = f"--flops-ratio {ratio:g}", _thresholds(error)

    def at(threshold: float) -> NDArray[np.bool_]:
        return reuse_while_below(error, threshold)

    def flops(threshold: float) -> int:
        return table.flops(_schedule(spec, at(threshold)))

    low, high = 0, len(thresholds) - 1
    if flops(thresholds[high]) > wanted:
        if not within_tolerance(problem, flops(thresholds[high]), ratio):
            raise unreachable(given, 1.0, problem.full_flops / flops(thresholds[high]))
        low = high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if flops(thresholds[middle]) >= wanted else (low, middle)
    more, less = at(thresholds[low]), at(thresholds[high])
    sites = np.arange(more.shape[1])
    offers = [_schedule(spec, np.where(sites < first, more, less)) for first in range(sites.size + 1)]
    best = min(offers, key=lambda offer: abs(table.flops(offer) - wanted))
    if not within_tolerance(problem, table.flops(best), ratio):
        near = problem.full_flops / table.flops(best)
        raise PlanError(f"{given}: thresholds of this map reach {near:.3f} at the nearest; give that")
    return best


def _thresholds(error: NDArray[np.float64]) -> list[float]:
    """All at which something changes, from the one that reuses nothing."""
    return [-np.inf, *np.unique(error[np.isfinite(error)]).tolist()]


def _schedule(spec: ModelSpec, computes: NDArray[np.bool_]) -> Schedule:
    """computes: [S, P], of the leaf sites."""
    work = np.full((len(computes), len(spec.sites)), COMPUTE, np.int64)
    work[:, list(spec.leaves)] = np.where(computes, COMPUTE, REUSE)
    return Schedule(work)
