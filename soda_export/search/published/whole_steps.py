"""Schedules of steps that compute everything and steps that compute nothing, as the published searches have them.

Where a method keeps what the blocks add to their input, every leaf site is reused; where it keeps the last block's
output, the stack; where it keeps the prediction, the model is not called.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from ...errors import PlanError
from ...plan.planners.interpolate import meet_target
from ...plan.planners.periods import evenly_spaced, fewest_anchors
from ...plan.problem import Problem, Target
from ...plan.schedule import Schedule

Choose = Callable[[int], tuple[int, ...]]
"""Number of anchors -> anchors."""


def fewest_chosen(choose: Choose, steps: int) -> int:
    """The least number of anchors for which `choose`, which is quick, has an answer: its intervals may not be long
    enough for fewer."""
    for budget in range(fewest_anchors(steps), steps):
        with suppress(PlanError):
            choose(budget)
            return budget
    return steps


def meet(
    problem: Problem, target: Target, choose: Choose, order: int = 0, stack: bool = False, skip: bool = False,
    fewest: int = 0,
) -> Schedule:  # fmt: skip
    """The schedule at the anchors of `choose`. In between, leaf sites or the stack are forecast at that order, or the
    model is not called. fewest: anchors that `choose` has an answer for, where it takes long: it is then asked for two
    numbers of them at most. Else it is asked. Raises PlanError with the reachable range."""

    def at(anchors: tuple[int, ...]) -> Schedule:
        return Schedule.at_anchors(problem.spec, problem.steps, anchors, order, stack, skip)

    return meet_target(
        problem, target, lambda budget: at(choose(budget)), fewest or fewest_chosen(choose, problem.steps),
        like=lambda budget: at(evenly_spaced(problem.steps, budget)),
    )  # fmt: skip
