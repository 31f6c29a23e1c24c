"""`best`: a portfolio of every planner's schedules and our own, measured end to end, and the best of them refined.

0. A budget fixes the number of anchors of everything below, and allows the FLOPs of soda's schedule with that budget.
1. A panel of calibration samples is drawn, half of them sensitive ones (panel.py). Every published planner plans for
   the same target; each schedule is measured on it, with the sampler fitted to it (sampler/fit.py).
2. Closed-loop interval costs are measured sparsely (closed_loop.py), and anchors and ways are solved for exactly
   (plan/intervals.py).
3. Those drafts, the published planners' anchors with every way, and the best planners' schedules as they are, are
   refined by local search on the measured error; the interval costs say what to measure first.
4. The best few of all, and the best of the planners, are measured again on several times as many samples, as many as
   the time that is left allows. The least RMSE wins, and takes the coefficients that are fitted on those samples.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import PlanError
from ..plan.anchors import by_end, solve_anchors
from ..plan.intervals import Intervals, solve_intervals
from ..plan.planners import PLANNERS, Planner
from ..plan.planners.soda import plan_soda
from ..plan.planners.targets import TOLERANCE
from ..plan.problem import Problem, Target
from ..plan.schedule import Schedule
from ..sampler import SamplerTable
from .closed_loop import (
    MEASURED_WAYS,
    IntervalCosts,
    Way,
    assumed_intervals,
    least_intervals,
    measure_intervals,
)
from .draft import Draft, Realizer
from .panel import draw_panel
from .predict import Predictor
from .refine import Measured, Search
from .trial import Trials

log = logging.getLogger(__name__)
_PANEL_SHARE, _SCOUTED_UNTIL, _INTERVALS_SHARE, _DRAFTS_UNTIL, _SEARCH_UNTIL = 0.12, 0.3, 0.25, 0.6, 0.75  # of the time
_MOST_INTERVALS_SHARE = 0.4  # of the time for the least number of intervals; where they take longer, none is measured
_PLAYS_AN_INTERVAL = 3.5  # what measuring one takes, in generations of a schedule
_REFINED = 4  # drafts and planners' schedules
_FEW_SAMPLES = 8  # to scout with, and for the interval costs
_SCOUTED_FIRST = ("soda", "skip-fitted", "dcs", "taylorseer", "dp-forecast", "zeus")  # where time is short
_LEADERS = 4  # planners
_FINALISTS, _PLANNERS_IN_FINAL = 4, 2
_SURE_IN_FINAL = 3  # time is kept for so many of them, and for one unaccelerated generation
_LEAST_IN_FINAL = 1.2  # finalists that there must be time for, or the search's own samples decide
_MOST_FINAL_SHARE = 0.35  # of the time, that is
MORE_SAMPLES = 4  # times those of the search, in the run-off and for the last fit
_LONG_CALL = 10.0  # seconds of one model call, beyond which it is estimated from that of one sample
_LEAST_TRIALS = 8  # whole generations that must fit into the time, or nothing is worth measuring


@dataclass(frozen=True)
class Found:
    """What the search came to. sampler: fitted to the schedule where the trials fit, else as it was. rmse: over all
    samples, estimated from those of the run-off. by: which planner, and how it was refined. portfolio: typical error of
    each planner's schedule, on a few samples."""

    schedule: Schedule
    sampler: SamplerTable
    rmse: float
    by: str
    measured: int
    portfolio: Mapping[str, float]


class _Start(NamedTuple):
    """What local search may begin with: a draft, or a planner's schedule. error: as measured. by: who made it."""

    error: float
    by: str
    at: Draft | Schedule


def affordable_samples(trials: Trials, seconds: float) -> int:
    """How many samples can be measured on in that time: those asked for, else a power of two; 0 = not even one."""
    calls = _LEAST_TRIALS * trials.sampler.steps
    one, count = trials.with_samples(range(1)).seconds_a_call(), len(trials.samples)
    together = trials.seconds_a_call() if one * count < _LONG_CALL else one * count
    if calls * together <= seconds:
        return count
    most = int(seconds / (calls * together / count)) if calls * one <= seconds else 0
    return 1 << (most.bit_length() - 1) if most else 0


def search_best(
    problem: Problem, target: Target, trials: Trials, *, seconds: float, max_engines: int,
    progress: Callable[[float, float], None], planners: Mapping[str, Planner] = PLANNERS,
) -> Found:  # fmt: skip
    """The best schedule that `seconds` of measuring find.

    A target with a budget gives exactly so many anchors; without a FLOPs ratio it allows the FLOPs of SODA's schedule
    with that budget. Raises PlanError with the reachable range. progress(elapsed, seconds).
    """
    assert problem.sensitivity is not None
    soda = plan_soda(problem, target, max_engines=max_engines)
    ratio = target.flops_ratio or soda.flops_ratio(problem.spec, problem.rows)
    started = time.perf_counter()

    def clock() -> None:
        progress(time.perf_counter() - started, seconds)

    realizer = Realizer(
        problem.spec, problem.rows, problem.steps, problem.full_flops / ratio, max_engines, problem.sensitivity,
        target.budget, trials.can_skip,
    )  # fmt: skip
    schedules = _portfolio(problem, target, planners, max_engines, realizer.budget) | {"soda": soda}
    if not trials.can_skip:
        schedules = {name: schedule for name, schedule in schedules.items() if not any(schedule.skips)}
    samples = len(trials.samples)
    panel = draw_panel(trials, _PANEL_SHARE * seconds, clock)
    few = trials.with_samples(panel.choose(min(_FEW_SAMPLES, samples)))
    scouting = time.perf_counter()
    errors = _scout(schedules, few, started + _SCOUTED_UNTIL * seconds, clock)
    play = (time.perf_counter() - scouting) / len(errors)  # seconds of one generation on few samples
    leaders = sorted(errors, key=lambda name: errors[name])[:_LEADERS]
    if least_intervals(problem.steps) * _PLAYS_AN_INTERVAL * play <= _MOST_INTERVALS_SHARE * seconds:
        costs = measure_intervals(few, _INTERVALS_SHARE * seconds, lambda *_: clock())
        solved = _solved_drafts(realizer, costs)
    else:
        costs, solved = assumed_intervals(problem.steps), {}
    judged = trials.with_samples(panel.choose(samples))
    pace = play / len(few.samples)  # seconds of one generation of one sample
    count = _final_count(samples, (ratio + _SURE_IN_FINAL) * pace, _MOST_FINAL_SHARE * seconds)
    final = (ratio + _SURE_IN_FINAL) * pace * count if count > samples else 0.0
    until = min(_SEARCH_UNTIL, 1.0 - final / seconds)
    search = Search(
        realizer, judged.typical_error, Predictor(costs, problem.spec, problem.rows), started + until * seconds, clock
    )
    starts: list[_Start] = []
    for name in leaders:
        if starts and search.over:
            break
        starts.append(_Start(search.try_schedule(schedules[name], name), name, schedules[name]))
    drafts = solved | _drafts_of(schedules, realizer.ways)
    for i, (draft, schedule) in enumerate(search.promising(drafts)):
        if search.over:
            break
        if i < _REFINED or time.perf_counter() - started < _DRAFTS_UNTIL * seconds:
            starts.append(_Start(search.try_schedule(schedule, drafts[draft]), drafts[draft], draft))
    for start in sorted(starts, key=lambda start: start.error)[:_REFINED]:
        if isinstance(start.at, Draft):
            search.refine_draft(start.at, start.error, f"{start.by}, refined")
        else:
            search.refine_schedule(start.at, start.error, f"{start.by}, refined")
    pace = search.pace / samples or pace
    left = started + seconds - time.perf_counter()
    count = _final_count(samples, (ratio + _LEAST_IN_FINAL) * pace, left)
    weights = panel.weights(count)
    many = trials.with_samples(panel.choose(count), weights) if count > samples else judged
    winner = _run_off(search, leaders, many, weights, started + seconds - pace * count, clock)
    sampler = many.fit_sampler(winner.schedule) if trials.fit else many.unfitted(winner.schedule)
    log.info("plan: scouted %s", ", ".join(f"{n} {e:.4g}" for n, e in sorted(errors.items(), key=lambda i: i[1])))
    log.info(
        "plan: %s, RMSE %.4g; %d schedules and %d intervals measured",
        winner.by, winner.error, len(search.measured), costs.measured,
    )  # fmt: skip
    return Found(winner.schedule, sampler, winner.error, winner.by, len(search.measured), errors)


def _final_count(samples: int, pace: float, seconds: float) -> int:
    """How many samples the finalists are measured on: a power of two times those of the search, MORE_SAMPLES times at
    most, and at least theirs. pace: seconds that each takes."""
    count = MORE_SAMPLES * samples
    while count > samples and pace * count > seconds:
        count //= 2
    return count


def _scout(
    schedules: Mapping[str, Schedule], few: Trials, deadline: float, clock: Callable[[], None]
) -> dict[str, float]:
    """Typical error of the planners' schedules, on few samples, as far as the time goes."""
    errors: dict[str, float] = {}
    first = [name for name in _SCOUTED_FIRST if name in schedules]
    for name in dict.fromkeys((*first, *schedules)):
        if errors and time.perf_counter() > deadline:
            break
        errors[name] = few.typical_error(schedules[name])
        clock()
    return errors


def _run_off(
    search: Search, leaders: list[str], many: Trials, weights: NDArray[np.float64], deadline: float,
    clock: Callable[[], None],
) -> Measured:  # fmt: skip
    """The finalist of least weighted RMSE on many samples; those that would begin after the deadline are out."""
    best: Measured | None = None
    planners = [m for m in search.measured if m.by in leaders[:_PLANNERS_IN_FINAL]]
    first, *others = search.finalists(_FINALISTS)
    for finalist in [first, *planners, *others]:
        if best is not None and time.perf_counter() > deadline:
            break
        judged = finalist._replace(error=float(np.sqrt(weights @ many.squared_errors(finalist.schedule))))
        best = judged if best is None or judged.error < best.error else best
        clock()
    assert best is not None
    return best


def _portfolio(
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


def _solved_drafts(realizer: Realizer, costs: IntervalCosts) -> dict[Draft, str]:
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


def _drafts_of(schedules: Mapping[str, Schedule], ways: Sequence[Way]) -> dict[Draft, str]:
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
