"""Whole steps without the model: the sampler goes on from the predictions that it remembers.

ZEUS (arXiv 2604.01552) computes the first 16 % of the steps, the last 6 %, and every third one in between, the setting
of its published SDXL figures: 24 of 50. A skipped step takes the line through the last two predictions, 2 e1 - e2; in
longer runs, that and the last prediction in turn. For other targets the steps in between are spread evenly.
SADA (arXiv 2507.17135) decides about the first half of a run while it plays, and leaves out three of four steps in the
second half whatever happens: `sada-static` is that half alone, with everything computed before it.
`skip-fitted` spreads its steps over the whole run, and least squares say what a skipped step takes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from ..problem import Problem, Target
from ..schedule import Schedule
from .interpolate import meet_target
from .periods import evenly_spaced, fewest_anchors
from .targets import check_one_given

_FIRST_SHARE, _LAST_SHARE, _PERIOD = 0.16, 0.94, 3
_SADA_FIRST_SHARE, _SADA_PERIOD = 0.48, 4


def plan_zeus(problem: Problem, target: Target) -> Schedule:
    """ZEUS's steps; without a target as published. Raises PlanError."""
    check_one_given(target, has_published_settings=True)
    steps = problem.steps
    if target.flops_ratio or target.budget:
        return meet_target(
            problem, target, lambda budget: _at(problem, zeus_steps(steps, budget)), fewest_anchors(steps)
        )
    first, last = 1 + math.ceil(_FIRST_SHARE * steps), math.ceil(_LAST_SHARE * steps)
    return _at(problem, (t for t in range(steps) if t < first or t > last or not t % _PERIOD))


def zeus_fill(run: int, known: int) -> tuple[float, ...]:
    """Weights of the last predictions in the `run`-th of steps skipped in a row."""
    return (2.0, -1.0) if known > 1 and (run == 1 or run % 2 == 0) else (1.0,)


def plan_sada_static(problem: Problem, target: Target) -> Schedule:
    """Everything up to a step, from there on the steps t with t % 4 == 1 alone, and the last 6 %; without a target the
    published step, which is 24 of 50. Others follow from the target. Raises PlanError with the reachable range."""
    check_one_given(target, has_published_settings=True)
    steps = problem.steps

    def after(first: int) -> Schedule:
        last = math.ceil(_LAST_SHARE * steps)
        return _at(problem, (t for t in range(steps) if t <= first or t > last or t % _SADA_PERIOD == 1))

    def make(budget: int) -> Schedule:
        return next(made for first in range(steps) if len((made := after(first)).anchors) >= budget)

    if target.flops_ratio or target.budget:
        fewest = len(after(_SADA_PERIOD + 1).anchors)
        return meet_target(problem, target, make, fewest, whole=_SADA_PERIOD + 2)
    return after(round(_SADA_FIRST_SHARE * steps / _SADA_PERIOD) * _SADA_PERIOD)


def plan_skip_fitted(problem: Problem, target: Target) -> Schedule:
    """Evenly spaced computations. Raises PlanError."""
    check_one_given(target)

    def make(budget: int) -> Schedule:
        return _at(problem, evenly_spaced(problem.steps, budget))

    return meet_target(problem, target, make, fewest_anchors(problem.steps))


def zeus_steps(steps: int, budget: int) -> tuple[int, ...]:
    """`budget` computed steps: the first and last ones, as many as published but no more than half, and others evenly
    in between."""
    first = min(1 + math.ceil(_FIRST_SHARE * steps), max(1, budget // 3))
    last = min(max(0, steps - 1 - math.ceil(_LAST_SHARE * steps)), budget // 6)
    between, count = steps - first - last, budget - first - last
    middle = (first + (i + 1) * between // count - 1 for i in range(count))
    return (*range(first), *middle, *range(steps - last, steps))


def _at(problem: Problem, computed: Iterable[int]) -> Schedule:
    return Schedule.at_anchors(problem.spec, problem.steps, tuple(computed), skip=True)
