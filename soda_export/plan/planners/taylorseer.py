"""TaylorSeer (arXiv 2503.06923): every N-th step is computed, outputs in between are forecast by a Taylor expansion.

As in its released code, the first two steps are computed, then every N-th after the second. The expansion has
constant coefficients in a frozen schedule (plan/forecast.py). The released setting is N = 4 with order 4; here the
order is 1 or 2.
"""

from __future__ import annotations

from ...errors import PlanError
from ...models.decisions import MAX_ORDER
from ..problem import Problem, Target
from ..schedule import Schedule
from .interpolate import meet_target
from .periods import fewest_anchors, offsets
from .targets import check_one_given

PUBLISHED_PERIOD = 4
_FIRST_STEPS = 2  # computed whatever the period, so that a first derivative exists


def plan_taylorseer(
    problem: Problem, target: Target, order: int = MAX_ORDER, period: int = PUBLISHED_PERIOD
) -> Schedule:
    """Every N-th step, forecasts of `order` in between; without a target N = `period`. Raises PlanError."""
    check_one_given(target, has_published_settings=True)
    if not 0 <= order <= MAX_ORDER or period < 1:
        raise PlanError(f"order {order}, period {period}: orders go from 0 to {MAX_ORDER}, periods from 1 step")
    steps = problem.steps

    def computed_at(from_second: tuple[int, ...]) -> Schedule:
        anchors = (0, *(1 + offset for offset in from_second))
        return Schedule.at_anchors(problem.spec, steps, anchors, order)

    if not target.flops_ratio and not target.budget:
        return computed_at(tuple(range(0, steps - 1, period)))

    def make(budget: int) -> Schedule:
        return computed_at(offsets(steps, budget))

    return meet_target(problem, target, make, fewest_anchors(steps), _FIRST_STEPS)


def plan_taylorseer_first_order(problem: Problem, target: Target) -> Schedule:
    """TaylorSeer with first derivatives only."""
    return plan_taylorseer(problem, target, order=1)
