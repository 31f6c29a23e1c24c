"""Fit a token rule to a budget or a FLOPs ratio: another period N, another share of fresh tokens, or both."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ...errors import PlanError
from ..problem import Problem, Target
from ..schedule import Schedule
from .flops_table import FlopsTable
from .targets import check_one_given, unreachable, within_tolerance
from .token_rule import FULL, TokenRule, assemble, keep_counts, schedule_of, step_work

_PERIODS, _WHOLE_PERIODS = 300, 32  # candidates for N: from ever full to never, and small whole ones
_MOST_FRESH = 64.0  # beyond this nearly every partial step computes all tokens of its renewable sites
_LEAST_FRESH = 1e-3  # below, hardly any token is computed
_HALVINGS = 30


def plan_by_rule(problem: Problem, target: Target, rule: TokenRule, quantize: bool) -> Schedule:
    """The rule as it is without a target; else the one closest to it that meets the target.

    A budget is met by N alone. For a ratio, of all (N, fresh) that meet it the one closest to the rule's is taken, as
    distance in the plane of their logarithms. Raises PlanError with what can be reached.
    """
    check_one_given(target, has_published_settings=True)
    if target.budget:
        return schedule_of(_fit_budget(problem, target.budget, rule), problem.spec, problem.steps, quantize)
    if target.flops_ratio:
        return _fit_ratio(problem, target.flops_ratio, rule, quantize)
    return schedule_of(rule, problem.spec, problem.steps, quantize)


def _periods(rule: TokenRule, steps: int) -> Iterator[tuple[float, NDArray[np.int64]]]:
    """Periods N that give different schedules, each with its steps' work; of equal ones the N closest to the rule's."""
    grid = {rule.period, *range(1, _WHOLE_PERIODS + 1), *np.geomspace(0.5, 2 * steps, _PERIODS).tolist()}
    closest_first = sorted(grid, key=lambda period: _octaves(period, rule.period))
    seen = set()
    for period in closest_first:
        work = step_work(replace(rule, period=period), steps)
        if work.tobytes() not in seen:
            seen.add(work.tobytes())
            yield period, work


def _fit_budget(problem: Problem, budget: int, rule: TokenRule) -> TokenRule:
    anchors: dict[int, float] = {}
    for period, work in _periods(rule, problem.steps):
        anchors.setdefault(int((work == FULL).all(axis=1).sum()), period)
    if budget not in anchors:
        near = sorted(sorted(anchors, key=lambda count: abs(count - budget))[:2])
        raise PlanError(
            f"--budget {budget}: this planner's rule can have {min(anchors)} to {max(anchors)} anchors, near this "
            f"{' or '.join(str(count) for count in near)}; give one of these"
        )
    return replace(rule, period=anchors[budget])


def _fit_ratio(problem: Problem, ratio: float, rule: TokenRule, quantize: bool) -> Schedule:
    spec, steps, table = problem.spec, problem.steps, FlopsTable(problem)
    wanted = problem.full_flops / ratio
    best: Schedule | None = None
    least_change, spans = np.inf, []
    for period, work in _periods(rule, steps):

        def at(fresh: float, work: NDArray[np.int64] = work) -> Schedule:
            return assemble(work, keep_counts(replace(rule, fresh=fresh), spec, steps), spec, quantize)

        span = table.flops(at(0.0)), table.flops(at(_MOST_FRESH))
        spans.append(span)
        change = _octaves(period, rule.period)
        if change >= least_change or not 0.99 * span[0] <= wanted <= 1.01 * span[1]:
            continue
        low, high = 0.0, _MOST_FRESH
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if table.flops(at(middle)) <= wanted else (low, middle)
        schedule = min((at(low), at(high)), key=lambda made: abs(table.flops(made) - wanted))
        change = math.hypot(change, _octaves(max(high, _LEAST_FRESH), rule.fresh))
        if change < least_change and within_tolerance(problem, table.flops(schedule), ratio):
            best, least_change = schedule, change
    if best is None:
        most, least = max(span[1] for span in spans), min(span[0] for span in spans)
        raise unreachable(f"--flops-ratio {ratio:g}", problem.full_flops / most, problem.full_flops / least)
    return best


def _octaves(a: float, b: float) -> float:
    return abs(math.log2(a / b))
