"""What a planner may be asked for, and its refusals: one line that names the reachable range."""

from __future__ import annotations

from ...errors import PlanError
from ..problem import Problem, Target
from ..sensitivity import SensitivityMap

TOLERANCE = 0.01
"""How far a schedule's FLOPs may be from those asked for, as a share."""


def check_one_given(target: Target, has_published_settings: bool = False) -> None:
    """Refuse both a budget and a ratio; refuse neither, unless the method has settings of its own."""
    check_values(target)
    if target.budget and target.flops_ratio:
        raise PlanError("give --budget or --flops-ratio, not both: this planner's anchors follow from either")
    if not target.budget and not target.flops_ratio and not has_published_settings:
        raise PlanError("give --budget (number of anchors) or --flops-ratio")


def check_values(target: Target) -> None:
    """Refuse numbers that mean nothing."""
    if target.budget < 0:
        raise PlanError(f"--budget {target.budget}: must be a number of steps")
    if target.flops_ratio and not 1.0 <= target.flops_ratio < float("inf"):
        raise PlanError(f"--flops-ratio {target.flops_ratio:g}: must be 1 or more")


def check_budget(budget: int, fewest: int, steps: int) -> None:
    """Refuse a number of anchors outside fewest .. steps."""
    if not fewest <= budget <= steps:
        raise PlanError(f"--budget {budget}: give {fewest} .. {steps} anchors")


def measured(problem: Problem) -> SensitivityMap:
    """The problem's map, for planners that cannot do without."""
    if problem.sensitivity is None:
        raise PlanError("this planner needs a sensitivity map; `soda-export profile` makes one")
    return problem.sensitivity


def within_tolerance(problem: Problem, flops: int, ratio: float) -> bool:
    """Whether these FLOPs are the ratio's."""
    return abs(flops * ratio / problem.full_flops - 1.0) <= TOLERANCE


def unreachable(given: str, low: float, high: float) -> PlanError:
    """A ratio outside what the method's schedules span."""
    return PlanError(f"{given}: this planner reaches FLOPs ratios of {low:.2f} to {high:.2f} here")
