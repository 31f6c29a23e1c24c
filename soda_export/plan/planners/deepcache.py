"""DeepCache (arXiv 2312.00858): a UNet's deep feature is computed every N-th step, counted from the first, and reused
in between, where only what its last skip connections bring is computed.
"""

from __future__ import annotations

from ...errors import PlanError
from ...models.decisions import REUSE
from ...models.spec import DEEP
from ..problem import Problem, Target
from ..schedule import Schedule
from .interpolate import meet_target
from .targets import check_one_given

PUBLISHED_PERIOD = 3


def plan_deepcache(problem: Problem, target: Target) -> Schedule:
    """Every N-th step from the first on; without a target N = 3. Raises PlanError, also for a model without a deep
    feature."""
    check_one_given(target, has_published_settings=True)
    spec, steps = problem.spec, problem.steps
    if DEEP not in spec.kinds:
        raise PlanError(f"--planner deepcache: made for UNets; {spec.family} has no deep feature; use another planner")

    def computed_at(anchors: range | list[int]) -> Schedule:
        work = Schedule.full(spec, steps).work
        for t in set(range(steps)).difference(anchors):
            work[t, list(spec.kinds[DEEP])] = REUSE
        return Schedule.of(spec, work)

    def make(budget: int) -> Schedule:
        return computed_at([i * steps // budget for i in range(budget)])

    if not target.flops_ratio and not target.budget:
        return computed_at(range(0, steps, PUBLISHED_PERIOD))
    return meet_target(problem, target, make, 1)
