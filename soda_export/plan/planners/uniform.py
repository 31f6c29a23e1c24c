"""Uniform: anchors as evenly spaced as whole steps allow, everything reused in between.

The fixed schedule that SODA's ablation starts from (arXiv 2603.07057); the first and the last step are anchors.
"""

from __future__ import annotations

from ..problem import Problem, Target
from ..schedule import Schedule
from .interpolate import meet_target
from .periods import evenly_spaced, fewest_anchors
from .targets import check_one_given


def plan_uniform(problem: Problem, target: Target) -> Schedule:
    """Evenly spaced anchors for a budget, or for a FLOPs ratio with one anchor in part. Raises PlanError."""
    check_one_given(target)

    def make(budget: int) -> Schedule:
        return Schedule.at_anchors(problem.spec, problem.steps, evenly_spaced(problem.steps, budget))

    return meet_target(problem, target, make, fewest_anchors(problem.steps))
