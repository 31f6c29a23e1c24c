"""LeMiCa and MeanCache: the run as a graph whose edges lead from one computed step to the next, and a path through it.

An edge's cost w is how far the final sample moves when the steps between its ends alone are not computed.
LeMiCa (arXiv 2511.00090): w by outright reuse; of all paths of m edges the one whose largest cost is least, among those
the one whose second largest is, and so on. MeanCache (arXiv 2601.19961): least sum of w^4 over the path, where each
edge takes the way of least cost; the first five steps and the last are computed. Both measure every edge; here a
sparse grid of them is measured, as far as the time goes, and the rest interpolated (closed_loop.py). MeanCache
corrects a reused prediction by the run's mean velocity; here it is forecast at first order.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ...errors import PlanError
from ...plan.anchors import by_end, solve_anchors
from ...plan.planners.targets import check_one_given
from ...plan.problem import Problem, Target
from ...plan.schedule import Schedule
from ..closed_loop import MEASURED_WAYS, measure_intervals
from ..trial import Trials
from .whole_steps import meet

_POWER, _FIRST = 4.0, 5  # of MeanCache


def plan_lemica(
    problem: Problem, target: Target, trials: Trials, seconds: float, progress: Callable[[], None]
) -> Schedule:
    """Lexicographic minimax. Raises PlanError."""
    check_one_given(target)
    costs = _costs(trials, seconds, progress, orders=(0,))
    return meet(problem, target, lambda budget: minimax_anchors(costs, budget))


def plan_meancache(
    problem: Problem, target: Target, trials: Trials, seconds: float, progress: Callable[[], None]
) -> Schedule:
    """Peaks suppressed by a fourth power. Raises PlanError."""
    check_one_given(target)
    costs = _costs(trials, seconds, progress, orders=(0, 1)) ** _POWER

    def choose(budget: int) -> tuple[int, ...]:
        first = min(_FIRST, max(1, budget // 3))  # few anchors leave no room for five
        own = costs.copy()
        own[:first, 2:] = np.inf
        for gap in range(2, own.shape[1]):
            own[first : first + gap - 1, gap] = np.inf  # it would begin before the last of the first steps
        return solve_anchors(own, budget)

    return meet(problem, target, choose, order=1)


def _costs(
    trials: Trials, seconds: float, progress: Callable[[], None], orders: tuple[int, ...]
) -> NDArray[np.float64]:
    """RMSE of the final sample [S, G + 1] by the anchor that ends an interval and its length."""
    measured = measure_intervals(trials, seconds, lambda *_: progress())
    ways = [i for i, way in enumerate(MEASURED_WAYS) if way.order in orders and not (way.stack or way.skip)]
    return by_end(np.sqrt(measured.squares[..., ways].min(axis=2)))


def minimax_anchors(cost: NDArray[np.float64], budget: int) -> tuple[int, ...]:
    """`budget` anchors, the first and last step among them, for cost [S, G + 1] by the end of an interval and its
    length: costs in falling order, the first that differs decides. Raises PlanError."""
    steps, gaps = cost.shape[0], cost.shape[1] - 1
    best: dict[int, tuple[tuple[float, ...], tuple[int, ...]]] = {0: ((), (0,))}  # by last anchor
    for _ in range(budget - 1):
        ahead: dict[int, tuple[tuple[float, ...], tuple[int, ...]]] = {}
        for start, (costs, anchors) in best.items():
            for gap in range(1, min(gaps, steps - 1 - start) + 1):
                end = start + gap
                offer = (tuple(sorted((*costs, float(cost[end, gap])), reverse=True)), (*anchors, end))
                if end not in ahead or offer < ahead[end]:
                    ahead[end] = offer
        best = ahead
    costs, anchors = best.get(steps - 1, ((np.inf,), ()))
    if (costs and not np.isfinite(costs[0])) or not anchors:
        raise PlanError(f"--budget {budget}: no path of intervals of up to {gaps} steps has so many anchors")
    return anchors
