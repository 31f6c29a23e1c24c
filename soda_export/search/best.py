"""`best`: a portfolio of every planner's schedules and our own, measured end to end, and the best of them refined.

0. A budget fixes the number of anchors of everything below, and allows the FLOPs of soda's schedule with that budget.
1. A panel of calibration samples is drawn, half of them sensitive ones (panel.py). Every planner that does not measure
   plans for the same target, and where steps may skip the model, so does `gram` (published/gram.py), from full runs of
   as many samples as there is time for; each schedule is measured on the panel, with the sampler fitted to it
   (sampler/fit.py).
2. Closed-loop interval costs are measured sparsely (closed_loop.py), and anchors and ways are solved for exactly
   (plan/intervals.py).
3. Those drafts, the published planners' anchors with every way, and the best planners' schedules as they are, are
   refined by local search on the measured error; the interval costs say what to measure first. A move is taken where
   it is no worse on samples that the search leaves out, and those are refined first that are best there.
4. The best few of all, and the best of the planners, are compared on the samples that are left out. The one that is
   nearest on a typical sample is fitted again on several times as many samples, as many as the time that is left
   allows, and what is reported of it comes from prompts that none of this has seen (held_out.py). Where no samples
   are left out, it is on those prompts that the finalists are compared.

A run that is under way when a tenth more than the time is over is given up, and what has been measured until then
decides.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..errors import PlanError
from ..plan.pairs import MOST_STEPS
from ..plan.plan import HeldOut
from ..plan.planners import PLANNERS, Planner
from ..plan.planners.soda import plan_soda
from ..plan.problem import Problem, Target
from ..plan.schedule import Schedule
from ..sampler import SamplerTable
from .closed_loop import IntervalCosts, assumed_intervals, least_intervals, measure_intervals
from .draft import Draft, Realizer
from .final import Finalist, Jury, Pace, RunOff
from .panel import Panel, draw_panel
from .portfolio import drafts_of, planned, solved_drafts
from .predict import Predictor
from .published.gram import final_costs, plan_by_costs
from .refine import Search, Start
from .trial import OutOfTime, Trials

log = logging.getLogger(__name__)
_PANEL_SHARE, _SCOUTED_UNTIL, _INTERVALS_SHARE, _DRAFTS_UNTIL, _SEARCH_UNTIL = 0.12, 0.5, 0.15, 0.6, 0.75  # of the time
_OVERRUN = 1.1  # of the time, then runs are given up
_MOST_INTERVALS_SHARE = 0.15  # of the time for the least number of intervals; where they take longer, none is measured
_PLAYS_AN_INTERVAL = 3.5  # what measuring one takes, in generations of a schedule
_REFINED = 4  # drafts and planners' schedules
_FEW_SAMPLES = 8  # to scout with, and for the interval costs
_SCOUTED_FIRST = ("gram", "soda", "skip-fitted", "dcs", "taylorseer", "dp-forecast", "zeus")  # where time is short
_LEAST_SCOUTED = 2
_LEADERS, _MOST_BEHIND = 4, 1.5  # planners that may win; times the error of the first
_SURE_IN_FINAL, _LEAST_IN_FINAL = 2, 1.0  # finalists that time is kept for; that there must be time for at the end
_MOST_FINAL_SHARE = 0.4  # of the time, that is
_RECORDED_SHARE = 0.2  # of the time, for full runs of more samples than the search has
_LONG_CALL = 10.0  # seconds of one model call, beyond which it is estimated from that of one sample
_LEAST_TRIALS = 8  # whole generations that must fit into the time, or nothing is worth measuring


@dataclass(frozen=True)
class Found:
    """What the search came to. sampler: fitted to the schedule where the trials fit, else as it was. held_out: what it
    was judged by; None where no time was left for that. by: which planner, and how it was refined. portfolio: typical
    error of each planner's schedule, on a few samples."""

    schedule: Schedule
    sampler: SamplerTable
    held_out: HeldOut | None
    by: str
    measured: int
    portfolio: Mapping[str, float]


def affordable_samples(trials: Trials, seconds: float) -> int:
    """How many samples can be measured on in that time: those asked for, else a power of two; 0 = not even one."""
    calls = _LEAST_TRIALS * trials.sampler.steps
    one, count = trials.with_samples(trials.samples[:1]).seconds_a_call(), len(trials.samples)
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
    with that budget. Raises PlanError with the reachable range, OutOfTime where nothing at all could be measured.
    progress(elapsed, seconds).
    """
    hunt = _Hunt(problem, target, trials, seconds, max_engines, progress, planners)
    with suppress(OutOfTime):
        hunt.run()
    return hunt.found()


def _by_soda(problem: Problem, target: Target, max_engines: int) -> tuple[dict[str, Schedule], PlanError | None]:
    """SODA's schedule, or why there is none: planners that skip the model may reach a FLOPs ratio that it cannot.
    Raises PlanError where a budget is asked for."""
    try:
        return {"soda": plan_soda(problem, target, max_engines=max_engines)}, None
    except PlanError as error:
        if not target.flops_ratio or target.budget:
            raise
        return {}, error


class _Hunt:
    """One search, as far as it gets."""

    def __init__(
        self, problem: Problem, target: Target, trials: Trials, seconds: float, max_engines: int,
        progress: Callable[[float, float], None], planners: Mapping[str, Planner],
    ) -> None:  # fmt: skip
        assert problem.sensitivity is not None
        self._problem, self._target, self._seconds, self._progress = problem, target, seconds, progress
        self._started = time.perf_counter()
        soda, refusal = _by_soda(problem, target, max_engines)
        self._ratio = target.flops_ratio or soda["soda"].flops_ratio(problem.spec, problem.rows)
        self._trials = trials.until(self._started + _OVERRUN * seconds)
        self._realizer = Realizer(
            problem.spec, problem.rows, problem.steps, problem.full_flops / self._ratio, max_engines,
            problem.sensitivity, target.budget, trials.can_skip,
        )  # fmt: skip
        schedules = self._planned(planners) | soda
        self._schedules = {name: s for name, s in schedules.items() if trials.can_skip or not any(s.skips)}
        if refusal and not self._schedules:
            if trials.can_skip:
                PLANNERS["skip-fitted"](problem, target)  # raises where that is out of reach, too, with its range
            raise refusal
        self._errors: dict[str, float] = {}
        self._pairs: NDArray[np.float64] | None = None
        self._pool = self._few = self._searched = self._trials
        self._search: Search | None = None
        self._full_seconds = self._least_play = 0.0
        self._final: Finalist | None = None
        self._held_out: HeldOut | None = None

    def run(self) -> None:
        """Raises OutOfTime where the time ends in the middle of a run."""
        panel = draw_panel(self._trials, _PANEL_SHARE * self._seconds, self._clock)
        samples = len(self._trials.samples)
        self._pool = self._trials.with_samples(panel.choose(self._recorded(panel)))
        if self._trials.can_skip and self._problem.steps <= MOST_STEPS:
            self._pairs = final_costs(self._pool, self._clock)
            self._schedules |= self._planned({"gram": partial(plan_by_costs, self._pairs)})
        self._few = self._pool.with_samples(panel.choose(min(_FEW_SAMPLES, samples)))
        self._searched = self._pool.with_samples(panel.choose(samples))
        play = self._scout()
        costs, solved = self._intervals(play)
        pace = self._pace(play / len(self._few.samples))
        most = _MOST_FINAL_SHARE * self._seconds
        count = RunOff.count(samples, panel, _SURE_IN_FINAL, pace, most)
        kept = min(most, RunOff.seconds(samples, count, _SURE_IN_FINAL, pace))
        until = min(_SEARCH_UNTIL * self._seconds, self._seconds - kept)
        jury = Jury.left_out(self._pool, self._searched, count)
        self._search = Search(
            self._realizer, self._searched.typical_error, Predictor(costs, self._problem.spec, self._problem.rows),
            self._started + until, self._clock,
            jury.typical_error if jury else lambda _: 0.0,
        )  # fmt: skip
        self._refine(self._search, solved)
        self._run_off(self._search, panel, self._pace(max(self._search.pace / samples, self._least_play)), jury)
        log.info("plan: scouted %s", ", ".join(f"{name} {e:.4g}" for e, name in self._ranked()))
        log.info("plan: %d schedules and %d intervals measured", len(self._search.measured), costs.measured)

    def found(self) -> Found:
        """The best of the furthest stage that was reached. Raises OutOfTime where none was."""
        measured = len(self._search.measured) if self._search else len(self._errors)
        if self._final:
            schedule, by, trials, _ = self._final
        elif self._search and self._search.measured:
            _, schedule, by = self._search.finalists(1)[0]
            trials = self._searched
        elif self._errors:
            by = self._ranked()[0][1]
            schedule, trials = self._schedules[by], self._few
        else:
            raise OutOfTime
        return Found(schedule, trials.until().table_for(schedule), self._held_out, by, measured, self._errors)

    def _clock(self) -> None:
        self._progress(self._elapsed, self._seconds)

    @property
    def _elapsed(self) -> float:
        return time.perf_counter() - self._started

    def _ranked(self) -> list[tuple[float, str]]:
        return sorted((error, name) for name, error in self._errors.items())

    @property
    def _leaders(self) -> list[str]:
        """The planners that may win, best first."""
        ranked = self._ranked()
        return [name for error, name in ranked[:_LEADERS] if error <= _MOST_BEHIND * ranked[0][0]]

    def _planned(self, planners: Mapping[str, Planner]) -> dict[str, Schedule]:
        return planned(self._problem, self._target, planners, self._realizer.max_engines, self._realizer.budget)

    def _recorded(self, panel: Panel) -> int:
        """How many samples to record full runs of: those of the search, and for `gram` as many as there is time for."""
        samples, steps = len(self._trials.samples), self._problem.steps
        if not self._trials.can_skip:
            return samples
        self._full_seconds = steps * self._trials.seconds_a_call() / samples
        return panel.multiple(samples, lambda count: count * self._full_seconds, _RECORDED_SHARE * self._seconds)

    def _pace(self, play: float) -> Pace:
        """play: seconds of one generation of one sample."""
        return Pace(play, self._full_seconds or self._ratio * play, len(self._pool.samples))

    def _scout(self) -> float:
        """Typical error of the planners' schedules, on few samples, as far as the time goes. Returns the seconds that
        one takes: no less than its model calls, though the journal may have had them all."""
        few = len(self._few.samples)
        self._least_play = self._few.seconds_a_call() * self._problem.steps / self._ratio / few
        begun = self._elapsed
        first = [name for name in _SCOUTED_FIRST if name in self._schedules]
        for name in dict.fromkeys((*first, *self._schedules)):
            if len(self._errors) >= _LEAST_SCOUTED and self._elapsed > _SCOUTED_UNTIL * self._seconds:
                break
            self._errors[name] = self._few.typical_error(self._schedules[name])
            self._clock()
        return max((self._elapsed - begun) / len(self._errors), self._least_play * few)

    def _intervals(self, play: float) -> tuple[IntervalCosts, dict[Draft, str]]:
        """Interval costs, and the drafts that they give; where there is no time for them, assumed ones and none."""
        steps = self._problem.steps
        if least_intervals(steps) * _PLAYS_AN_INTERVAL * play > _MOST_INTERVALS_SHARE * self._seconds:
            return assumed_intervals(steps, self._pairs), {}
        costs = measure_intervals(self._few, _INTERVALS_SHARE * self._seconds, lambda *_: self._clock())
        return costs, solved_drafts(self._realizer, costs)

    def _refine(self, search: Search, solved: Mapping[Draft, str]) -> None:
        """Measure the leaders and the most promising drafts, and search around the best of them."""
        starts: list[Start] = []
        for name in self._leaders:
            if starts and search.over:
                break
            schedule = self._schedules[name]
            starts.append(Start(search.try_schedule(schedule, name)))
        drafts = {**solved, **drafts_of(self._schedules, self._realizer.ways)}
        for i, (draft, schedule) in enumerate(search.promising(drafts)):
            if search.over:
                break
            if i < _REFINED or self._elapsed < _DRAFTS_UNTIL * self._seconds:
                starts.append(Start(search.try_schedule(schedule, drafts[draft]), draft))
        search.refine(sorted(starts, key=lambda start: start.measured.error)[:_REFINED])

    def _run_off(self, search: Search, panel: Panel, pace: Pace, jury: Jury | None) -> None:
        samples, left = len(self._searched.samples), self._seconds - self._elapsed
        count = RunOff.count(samples, panel, _LEAST_IN_FINAL, pace, left)
        run_off = RunOff(self._pool, self._searched, panel, count, jury)
        until = self._seconds - RunOff.seconds_to_conclude(samples, count, pace)
        self._final, least = run_off.enter(search.finalists(1)[0]), np.inf
        for entrant in run_off.entrants(search, self._leaders):
            fewest = 2 if np.isinf(least) else 1  # comparing one alone decides nothing
            late = self._elapsed > until - fewest * run_off.jury.seconds_of_one(pace)
            if late and not run_off.jury.knows(entrant):
                break
            if (error := run_off.jury.typical_error(entrant.schedule)) < least:
                least, self._final = error, run_off.enter(entrant)
            self._clock()
        if run_off.refits and self._elapsed <= until:
            self._final = run_off.refit(self._final)
        self._held_out = run_off.report(self._final)
