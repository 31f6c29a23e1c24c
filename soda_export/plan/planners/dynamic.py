"""SODA's dynamic caching schedule alone: anchors by dynamic programming, all else reused, or forecast.

`dcs` is the +DCS row of SODA's ablation (arXiv 2603.07057). `dp-forecast` puts TaylorSeer's expansion
(arXiv 2503.06923) between the same anchors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...models.decisions import MAX_ORDER
from ..anchors import AnchorCost, anchor_cost, solve_anchors
from ..problem import Problem, Target
from ..schedule import Schedule
from .interpolate import meet_ratio
from .targets import check_one_given, measured


def error_of_anchors(problem: Problem, cost: AnchorCost) -> NDArray[np.float64]:
    """Reuse error [S, I] that anchors are solved on: mean over the leaf sites, or CEM's, of the last block's output."""
    sensitivity = measured(problem)
    if cost == "cem":
        return np.nan_to_num(sensitivity.hidden_error.astype(np.float64))
    return sensitivity.mean_reuse_error(problem.spec.leaves)


def fewest_anchors_of(problem: Problem) -> int:
    """Anchors that the map's longest interval needs: no step may be further from its anchor."""
    longest = int(measured(problem).reuse_error.shape[2]) + 1  # steps from an anchor to the next
    return 1 - (1 - problem.steps) // longest


def plan_dcs(problem: Problem, target: Target, order: int = 0) -> Schedule:
    """Anchors by dynamic programming for a budget, or for a FLOPs ratio with one anchor in part. Raises PlanError."""
    check_one_given(target)
    error = error_of_anchors(problem, "sum")

    def make(budget: int) -> Schedule:
        anchors = solve_anchors(anchor_cost("sum", error, budget), budget)
        return Schedule.at_anchors(problem.spec, problem.steps, anchors, order)

    if target.flops_ratio:
        return meet_ratio(problem, target.flops_ratio, make, fewest_anchors_of(problem))
    return make(target.budget)


def plan_dp_forecast(problem: Problem, target: Target) -> Schedule:
    """The same anchors, with second-order forecasts between them."""
    return plan_dcs(problem, target, order=MAX_ORDER)
