"""What `best` begins with: every planner's schedule for the target, and drafts of anchors and ways."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..errors import PlanError
from ..plan.anchors import by_end, solve_anchors
from ..plan.intervals import Intervals, solve_intervals
from ..plan.planners import Planner
from ..plan.planners.targets import TOLERANCE
from ..plan.problem import Problem, Target
from ..plan.schedule import Schedule
from .closed_loop import MEASURED_WAYS, IntervalCosts, Way
from .draft import Draft, Realizer

log = logging.getLogger(__name__)


def planned(
    problem: Problem, target: Target, planners: Mapping[str, Planner], max_engines: int, budget: float
) -> dict[str, Schedule]:
    """Every planner's schedule for the target, or where it takes no FLOPs ratio beside a budget, for the budget alone.
    Those that cannot reach it, or need too many engines or more than `budget` FLOPs, are left out."""
    schedules = {}
    targets = (target, Target(target.budget)) if target.budget and target.flops_ratio else (target,)
    for name, planner in planners.items():
        for asked in targets:
            try:
                schedule = planner(problem, asked)
            except PlanError as error:
                log.debug("plan: %s is left out: %s", name, error)
                continue
            spent = schedule.flops(problem.spec, problem.rows)
            if schedule.num_kinds <= max_engines and spent <= (1.0 + TOLERANCE) * budget:
                schedules[name] = schedule
            break
    return schedules


def solved_drafts(realizer: Realizer, costs: IntervalCosts) -> dict[Draft, str]:
    """Anchors and ways of least closed-loop cost: with all ways or some, errors adding up as squares or as they are."""
    drafts: dict[Draft, str] = {}
    able = [i for i, way in enumerate(MEASURED_WAYS) if way in realizer.ways]
    flops = np.array([realizer.way_flops(MEASURED_WAYS[i]) for i in able], np.float64)
    kinds = {"all ways": able, "leaf sites": [i for i in able if not (MEASURED_WAYS[i].stack or MEASURED_WAYS[i].skip)]}
    for kind, ways in kinds.items():
        for name, power in (("squares", 1.0), ("errors", 0.5)):
            try:
                found = _solve(realizer, costs.squares[..., ways] ** power, flops[[able.index(w) for w in ways]])
            except PlanError:
                continue
            chosen = tuple(MEASURED_WAYS[ways[w]] for w in found.ways)
            draft = Draft(found.anchors, (*chosen, Way(0, False)))
            drafts.setdefault(draft.moved(partial=_widest(draft, realizer.steps)), f"closed loop, {kind}, {name}")
    return drafts


def _solve(realizer: Realizer, cost: NDArray[np.float64], flops: NDArray[np.float64]) -> Intervals:
    """cost: [S, G + 1, W] of the interval from each anchor by gap and way; flops: [W]. Within the budget, or with the
    number of anchors that is asked for."""
    if not realizer.anchors:
        return solve_intervals(cost, realizer.full, flops, realizer.budget)
    least = cost.min(axis=2)  # [S, G + 1] by the anchor that begins the interval
    anchors = solve_anchors(by_end(least), realizer.anchors)
    spans = list(pairwise(anchors))
    ways = tuple(int(cost[first, end - first].argmin()) for first, end in spans)
    return Intervals(anchors, ways, float(sum(least[first, end - first] for first, end in spans)))


def drafts_of(schedules: Mapping[str, Schedule], ways: Sequence[Way]) -> dict[Draft, str]:
    """The planners' anchors with every order in between, and with nothing."""
    drafts: dict[Draft, str] = {}
    for name, schedule in schedules.items():
        anchors = schedule.anchors
        for way in (way for way in ways if not way.stack):
            draft = Draft(anchors, (way,) * len(anchors))
            between = "skips" if way.skip else f"order {way.order}"
            drafts.setdefault(draft.moved(partial=_widest(draft, schedule.steps)), f"{name}'s anchors, {between}")
    return drafts


def _widest(draft: Draft, steps: int) -> tuple[int, ...]:
    """The middles of the two widest intervals: where a partial computation helps most, as a first guess."""
    gaps = sorted(
        ((end - first, first) for first, end in zip(draft.anchors, (*draft.anchors[1:], steps), strict=True)),
        reverse=True,
    )
    return tuple(first + gap // 2 for gap, first in gaps[:2] if gap > 1)
