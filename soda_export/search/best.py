"""`best`: a portfolio of every planner's schedules and our own, measured end to end, and the best of them refined.

1. Every published planner plans for the same FLOPs; each schedule is measured on the calibration samples.
2. Closed-loop interval costs are measured sparsely (closed_loop.py), and anchors and ways are solved for exactly
   (plan/intervals.py).
3. Those drafts, and the published planners' anchors with every way, are refined by local search on the measured error.

The best schedule measured is returned, so on the calibration samples it is never worse than any planner of the
portfolio that was measured.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import PlanError
from ..plan.intervals import solve_intervals
from ..plan.planners import PLANNERS, Planner
from ..plan.problem import Problem, Target
from ..plan.schedule import Schedule
from .closed_loop import MEASURED_WAYS, IntervalCosts, Way, measure_intervals
from .draft import Draft, Realizer
from .refine import Search
from .trial import Trials

log = logging.getLogger(__name__)
_PORTFOLIO_SHARE, _INTERVALS_SHARE, _DRAFTS_UNTIL = 0.25, 0.3, 0.7  # of the time
_REFINED = 4  # drafts
_LEAST_TRIALS = 8  # whole generations that must fit into the time, or nothing is worth measuring


@dataclass(frozen=True)
class Found:
    """What the search came to. rmse: on the calibration samples. by: which planner,
    and how it was refined. portfolio: error of each planner that was measured."""

    schedule: Schedule
    rmse: float
    by: str
    measured: int
    portfolio: Mapping[str, float]


def affordable_samples(trials: Trials, seconds: float) -> int:
    """How many samples can be measured on in that time, a power of two up to what was asked; 0 = not even one."""
    one = trials.smaller(1)
    generation = one.seconds_a_call() * one.sampler.steps
    most = int(seconds / (_LEAST_TRIALS * generation))
    return min(trials.samples, 1 << (most.bit_length() - 1)) if most else 0


def search_best(
    problem: Problem, target: Target, trials: Trials, *, seconds: float, max_engines: int,
    progress: Callable[[float, float], None], planners: Mapping[str, Planner] = PLANNERS,
) -> Found:  # fmt: skip
    """The best schedule that `seconds` of measuring find.

    A target with a budget of anchors alone stands for the FLOPs of SODA's schedule with that budget. Raises PlanError
    with the reachable range. progress(elapsed, seconds).
    """
    assert problem.sensitivity is not None
    soda = planners["soda"](problem, target)
    ratio = target.flops_ratio or soda.flops_ratio(problem.spec, problem.rows)
    started = time.perf_counter()
    realizer = Realizer(
        problem.spec, problem.rows, problem.steps, problem.full_flops / ratio, max_engines, problem.sensitivity
    )
    search = Search(
        realizer, trials.rmse, started + seconds, lambda *_: progress(time.perf_counter() - started, seconds)
    )
    schedules = {"soda": soda} | _portfolio(problem, Target(flops_ratio=ratio), planners)
    errors: dict[str, float] = {}
    for name, schedule in schedules.items():
        if errors and time.perf_counter() - started > _PORTFOLIO_SHARE * seconds:
            break
        errors[name] = search.try_schedule(schedule, name)
    costs = measure_intervals(trials, _INTERVALS_SHARE * seconds, lambda *_: progress(
        time.perf_counter() - started, seconds
    ))  # fmt: skip
    drafts = _solved_drafts(realizer, costs) | _drafts_of(schedules, problem.spec.num_tokens)
    ranked: list[tuple[float, int]] = []
    for i, (draft, name) in enumerate(drafts.items()):
        if i < _REFINED or time.perf_counter() - started < _DRAFTS_UNTIL * seconds:
            ranked.append((search.try_draft(draft, name), i))
    for error, i in sorted(ranked)[:_REFINED]:
        if np.isfinite(error) and not search.over:
            draft = list(drafts)[i]
            search.refine(draft, f"{drafts[draft]}, refined")
    assert search.best is not None
    log.info("plan: measured %s", ", ".join(f"{n} {e:.4g}" for n, e in sorted(errors.items(), key=lambda i: i[1])))
    log.info(
        "plan: %s, RMSE %.4g on %d calibration samples; %d schedules and %d intervals measured",
        search.best_by, search.best_error, trials.samples, search.measured, costs.measured,
    )  # fmt: skip
    return Found(search.best, search.best_error, search.best_by, search.measured, errors)


def _portfolio(problem: Problem, target: Target, planners: Mapping[str, Planner]) -> dict[str, Schedule]:
    """Every planner's schedule for the target; those that cannot reach it are left out."""
    schedules = {}
    for name, planner in planners.items():
        try:
            schedules[name] = planner(problem, target)
        except PlanError as error:
            log.debug("plan: %s is left out: %s", name, error)
    return schedules


def _solved_drafts(realizer: Realizer, costs: IntervalCosts) -> dict[Draft, str]:
    """Anchors and ways of least closed-loop cost: with all ways or some, errors adding up as squares or as they are."""
    drafts: dict[Draft, str] = {}
    flops = np.array([realizer.way_flops(way) for way in MEASURED_WAYS], np.float64)
    everything = list(range(len(MEASURED_WAYS)))
    kinds = {"all ways": everything, "modules": [i for i in everything if not MEASURED_WAYS[i].stack]}
    for kind, ways in kinds.items():
        for name, power in (("squares", 1.0), ("errors", 0.5)):
            try:
                found = solve_intervals(
                    costs.squares[..., ways] ** power, realizer.full, flops[ways], realizer.budget
                )  # fmt: skip
            except PlanError:
                continue
            chosen = tuple(MEASURED_WAYS[ways[w]] for w in found.ways)
            draft = Draft(found.anchors, (*chosen, Way(0, False)))
            drafts.setdefault(draft.moved(partial=_widest(draft, realizer.steps)), f"closed loop, {kind}, {name}")
    return drafts


def _drafts_of(schedules: Mapping[str, Schedule], num_tokens: int) -> dict[Draft, str]:
    """The planners' anchors with the highest order of each kind in between."""
    drafts: dict[Draft, str] = {}
    for name, schedule in schedules.items():
        anchors = schedule.anchors(num_tokens)
        for way in (Way(2, False), Way(1, False)):
            draft = Draft(anchors, (way,) * len(anchors))
            drafts.setdefault(
                draft.moved(partial=_widest(draft, schedule.steps)), f"{name}'s anchors, order {way.order}"
            )
    return drafts


def _widest(draft: Draft, steps: int) -> tuple[int, ...]:
    """The middles of the two widest intervals: where a partial computation helps most, as a first guess."""
    gaps = sorted(
        ((end - first, first) for first, end in zip(draft.anchors, (*draft.anchors[1:], steps), strict=True)),
        reverse=True,
    )
    return tuple(first + gap // 2 for gap, first in gaps[:2] if gap > 1)
