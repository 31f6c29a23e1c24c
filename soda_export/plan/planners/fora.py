"""FORA (arXiv 2407.01425): every site is computed every N-th step and reused in between.

As in its released code, steps count down to 0 and those that N divides are computed; the first step always is. For
numbers of anchors that no whole N gives, N is fractional.
"""

from __future__ import annotations

from ...errors import PlanError
from ..problem import Problem, Target
from ..schedule import Schedule
from .interpolate import meet_target
from .periods import fewest_anchors, offsets
from .targets import check_one_given

PUBLISHED_PERIOD = 3


def plan_fora(problem: Problem, target: Target, period: int = PUBLISHED_PERIOD) -> Schedule:
    """Every N-th step counted from the end; without a target N = `period`. Raises PlanError."""
    check_one_given(target, has_published_settings=True)
    if period < 1:
        raise PlanError(f"period {period}: must be at least 1 step")
    steps = problem.steps

    def computed_at(from_end: tuple[int, ...]) -> Schedule:
        anchors = {0, *(steps - 1 - offset for offset in from_end)}
        return Schedule.at_anchors(problem.spec, steps, tuple(sorted(anchors)))

    if not target.flops_ratio and not target.budget:
        return computed_at(tuple(range(0, steps, period)))
    return meet_target(problem, target, lambda budget: computed_at(offsets(steps, budget)), fewest_anchors(steps))
