"""What the search does between measurements: drafts within their budget, moves, predictions, exactly N anchors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from soda_export.lower.lower import lower_plan
from soda_export.models.decisions import COMPUTE, IDLE
from soda_export.plan.problem import Problem, Target
from soda_export.plan.schedule import Schedule
from soda_export.search import best, refine
from soda_export.search.best import search_best
from soda_export.search.closed_loop import MEASURED_WAYS, WAYS, IntervalCosts, Way
from soda_export.search.draft import Draft, Realizer
from soda_export.search.objective import Objective
from soda_export.search.panel import Panel
from soda_export.search.portfolio import solved_drafts
from soda_export.search.predict import Predictor
from soda_export.search.refine import _STEPS_AT_ONCE, Measured, Search, Start, _exchange, _pairs
from tests.plan.problems import DIGITS, FLUX_TOY, NESTED, SHAPES, at, check_history, plan_of, problem

STEPS = 12
CASES = tuple(problem(spec, "ddim", STEPS) for spec in (DIGITS, SHAPES, FLUX_TOY, NESTED))
CASE = CASES[0]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.spec.name)


def realizer(case: Problem, ratio: float, max_engines: int = 12, anchors: int = 0) -> Realizer:
    assert case.sensitivity is not None
    budget = case.full_flops / ratio
    return Realizer(case.spec, case.rows, case.steps, budget, max_engines, case.sensitivity, anchors)


def made_up_costs(steps: int = STEPS) -> IntervalCosts:
    """An interval costs more the longer it is and the earlier it begins."""
    squares = np.full((steps, 11, len(MEASURED_WAYS)), np.inf)
    for gap in range(1, min(11, steps)):
        for anchor in range(steps - gap):
            squares[anchor, gap] = (gap - 1) ** 2 * (1 + 1 / (1 + anchor)) * (1 + 0.1 * np.arange(len(MEASURED_WAYS)))
    return IntervalCosts(squares, 0)


@each_case
def test_a_draft_spends_its_budget_and_no_more(case: Problem) -> None:
    for ratio in (1.6, 2.0, 2.6):
        anchors = tuple(range(0, STEPS, 4))
        schedule = realizer(case, ratio).realize(Draft(anchors, (Way(2, False),) * len(anchors), (2, 6)))
        assert schedule is not None
        assert schedule.flops(case.spec, case.rows) <= case.full_flops / ratio
        assert (schedule.work[2, case.spec.leaves] == COMPUTE).any()  # the first partial step gets what is left
        check_history(schedule)


def test_drafts_beyond_the_budget_or_the_engines_are_refused() -> None:
    many = Draft(tuple(range(STEPS)), (Way(0, False),) * STEPS)
    assert realizer(CASE, 2.0).realize(many) is None
    few = Draft((0, 6), (Way(0, False), Way(1, False)))
    assert realizer(CASE, 2.0).realize(few) is not None
    assert realizer(CASE, 2.0, max_engines=2).realize(few) is None
    assert realizer(CASE, 2.0, anchors=3).realize(few) is None
    stacked = realizer(CASE, 2.0).realize(Draft((0, 6), (Way(0, True), Way(1, True))))
    assert stacked is not None
    assert stacked.work[:, DIGITS.stack].tolist() == [COMPUTE, *[0] * 5, COMPUTE, *[-1] * 5]
    assert (stacked.work[1, DIGITS.leaves] == IDLE).all()


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(CASES), st.integers(0, 2**32 - 1))
def test_a_fill_in_never_makes_another_anchor_where_their_number_is_given(case: Problem, seed: int) -> None:
    rng = np.random.default_rng(seed)
    anchors = (0, *sorted(rng.choice(np.arange(1, STEPS), 3, replace=False).tolist()))
    maker = realizer(case, 1.01, anchors=4)
    ways = tuple(maker.ways[i] for i in rng.integers(0, len(maker.ways), 4))
    schedule = maker.realize(Draft(anchors, ways, tuple(rng.integers(1, STEPS, 3).tolist())))
    assert schedule is not None
    assert schedule.anchors == anchors
    check_history(schedule)


def test_without_a_stack_no_way_skips_it() -> None:
    assert realizer(CASE, 2.0).ways == tuple(way for way in WAYS if not way.skip)
    assert all(not way.stack for way in realizer(CASES[3], 2.0).ways)


def test_a_draft_may_skip_and_compute_in_part_where_it_skips() -> None:
    """What the skipped steps leave of the budget goes to a step that is computed in part."""
    assert CASE.sensitivity is not None
    able = Realizer(CASE.spec, CASE.rows, CASE.steps, CASE.full_flops / 2.2, 12, CASE.sensitivity, can_skip=True)
    skip = Way(0, False, True)
    assert able.way_flops(skip) == 0
    anchors = tuple(range(0, CASE.steps, 3))
    schedule = able.realize(Draft(anchors, (skip,) * len(anchors), (1,)))
    assert schedule is not None
    assert schedule.skips == [t not in (*anchors, 1) for t in range(CASE.steps)]
    assert (schedule.work[1] == COMPUTE).any()


def test_exchanged_steps_are_the_same_work() -> None:
    schedule = Schedule.at_anchors(DIGITS, STEPS, (0, 3, 6, 9))
    schedule.work[4, :2], schedule.work[7, at(DIGITS, "ff")] = COMPUTE, 16
    others = [_exchange(schedule, pair) for pair in _pairs(schedule)]
    assert len(others) == 3 * 8 + 2 * 6 + 1  # an anchor with another step, one of the two with a reused one, or both
    for other in others:
        assert sorted(row.tobytes() for row in other.work) == sorted(row.tobytes() for row in schedule.work)
        assert (other.work[0] == COMPUTE).all()
        assert other.flops(DIGITS, 2) == schedule.flops(DIGITS, 2)
    assert len({other.work.tobytes() for other in others}) == len(others)


@each_case
def test_exchanged_forecasts_have_the_history_that_they_need(case: Problem) -> None:
    schedule = Schedule.at_anchors(case.spec, STEPS, (0, 1, 2, 8), 2)
    for pair in _pairs(schedule):
        lower_plan(plan_of(case.spec, _exchange(schedule, pair).work), case.spec)  # refuses what was never computed


def test_a_prediction_adds_up_the_intervals() -> None:
    squares = np.full((STEPS, 11, len(MEASURED_WAYS)), np.inf)
    for gap in range(1, 11):
        for anchor in range(STEPS - gap):
            squares[anchor, gap] = (gap - 1) * (1 + anchor)
    predict = Predictor(IntervalCosts(squares, 0), DIGITS, 2)

    def of(anchors: Sequence[int]) -> float:
        return predict(Schedule.at_anchors(DIGITS, STEPS, tuple(anchors)))

    assert of(range(STEPS)) == 0.0
    assert of((0, 2, 5, *range(6, STEPS))) == pytest.approx(1 + 2 * 3)
    assert of(range(STEPS - 1)) == pytest.approx(1 + STEPS - 3)  # as the last interval of its gap that was measured
    half = Schedule.at_anchors(DIGITS, STEPS, (0, *range(2, STEPS)))
    half.work[1, :2] = COMPUTE
    assert 0.3 < predict(half) < 0.95


@each_case
def test_steps_of_every_kind_are_predicted(case: Problem) -> None:
    predict = Predictor(made_up_costs(), case.spec, case.rows)
    maker = realizer(case, 1.2)
    for way in maker.ways:
        schedule = maker.realize(Draft((0, 1, 2, 6), (way,) * 4))
        assert schedule is not None
        assert predict(schedule) > 0.0


def error_of(case: Problem, schedule: Schedule) -> float:
    """What the map says of a schedule, for want of a model to measure with."""
    assert case.sensitivity is not None
    error, total, last = np.nan_to_num(case.sensitivity.reuse_error), 0.0, np.zeros(len(case.spec.sites), int)
    for t, work in enumerate(schedule.work):
        last[work == COMPUTE] = t
        reused = np.flatnonzero((work <= 0) & (work != IDLE))
        total += float(error[t, reused, np.minimum(t - last[reused], 9) - 1].sum())
    return total


def test_refining_makes_it_better_and_never_worse() -> None:
    predict = Predictor(made_up_costs(), DIGITS, 2)
    search = Search(realizer(CASE, 2.0), lambda s: error_of(CASE, s), predict, float("inf"), lambda: None)
    start = Draft((0, 2, 4, 6, 8), (Way(0, False),) * 5, (10,))
    ((_, schedule),) = search.promising([start])
    before = search.try_schedule(schedule, "start")
    search.refine([Start(before, start)])
    moved = search.finalists(1)[0]
    assert moved.error < before.error
    assert moved.by == "start, refined"
    search.refine([Start(moved)])
    assert search.finalists(1)[0].error <= moved.error


def test_refining_stops_at_the_deadline() -> None:
    predict = Predictor(made_up_costs(), DIGITS, 2)
    search = Search(realizer(CASE, 2.0), lambda s: error_of(CASE, s), predict, 0.0, lambda: None)
    schedule = Schedule.at_anchors(DIGITS, STEPS, (0, 2, 4, 6, 8))
    search.refine([Start(search.try_schedule(schedule, "start"))])
    assert len(search.measured) == 1


def test_a_move_is_taken_where_it_helps_on_samples_that_it_was_not_measured_on() -> None:
    start = Schedule.at_anchors(DIGITS, STEPS, (0, 2, 4, 6, 8))
    predict, judged = Predictor(made_up_costs(), DIGITS, 2), list[bytes]()

    def refined(*judges: Callable[[Schedule], float]) -> list[Measured]:
        search = Search(
            realizer(CASE, 2.0), lambda s: error_of(CASE, s), predict, float("inf"), lambda: None, *judges
        )  # fmt: skip
        search.refine([Start(search.try_schedule(start, "start"))])
        return search.measured

    before, *moves = refined()
    first = next(move for move in moves if move.error < before.error)

    def judge(schedule: Schedule) -> float:
        """Worse where the first move is that looked better."""
        judged.append(schedule.work.tobytes())
        return float((schedule.work == first.schedule.work).all())

    others = refined(judge)
    refused = first.schedule.work.tobytes()
    assert judged[:2] == [start.work.tobytes(), refused]
    free, bound = ([move.schedule.work.tobytes() for move in some] for some in ([before, *moves], others))
    place = free.index(refused)
    assert bound[: place + 1] == free[: place + 1]
    assert bound[place + 1] != free[place + 1]  # it goes on from the start, not from the refused move
    assert min(move.error for move in others if move.schedule.work.tobytes() != refused) < before.error


def test_the_search_begins_with_what_is_judged_best() -> None:
    predict = Predictor(made_up_costs(), DIGITS, 2)
    first, second = (Schedule.at_anchors(DIGITS, STEPS, (0, 2, 4, 6, last)) for last in (8, 9))
    search = Search(
        realizer(CASE, 2.0), lambda s: error_of(CASE, s), predict, float("inf"), lambda: None,
        lambda schedule: 0.0 if (schedule.work == second.work).all() else 1.0,
    )  # fmt: skip
    starts = [Start(search.try_schedule(schedule, name)) for schedule, name in ((first, "first"), (second, "second"))]
    search.refine(starts)
    assert search.measured[2].by == "second, refined"


class FakeClock:
    """Stands in for `time`: each measurement takes a second, and nothing else any."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Predictions:
    """A search of neighbours of a start in a run of some steps; each prediction takes a second."""

    def __init__(self, steps: int, deadline: float = float("inf"), anchors: Sequence[int] = ()) -> None:
        self.case, self.clock, self.count = problem(DIGITS, "ddim", steps), FakeClock(), 0
        self.costs = Predictor(made_up_costs(steps), DIGITS, 2)
        places = tuple(anchors or range(0, steps, 2))
        self.draft = Draft(places, (Way(1, False),) * len(places), (steps - 1, steps - 3))
        self.realizer = realizer(self.case, 1.0)
        schedule = self.realizer.realize(self.draft)
        assert schedule is not None
        self.schedule: Schedule = schedule
        self.search = Search(self.realizer, lambda _: 1.0, self.predict, deadline, lambda: None)

    def predict(self, schedule: Schedule) -> float:
        self.clock.now, self.count = self.clock.now + 1.0, self.count + 1
        return self.costs(schedule)

    @property
    def start(self) -> Measured:
        return self.search.try_schedule(self.schedule, "start")


@pytest.mark.parametrize("as_draft", [True, False], ids=["moves", "exchanges"])
def test_neighbours_of_long_runs_are_looked_at_within_the_time(as_draft: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = Predictions(80, deadline=20.0)
    monkeypatch.setattr(refine, "time", tried.clock)
    tried.search.refine([Start(tried.start, tried.draft if as_draft else None)])
    assert tried.count == 21
    assert len(tried.search.measured) == 1


def test_all_neighbours_of_long_runs_come_in_parts() -> None:
    """Each exchange once, and before the first of them no more predictions than a short run has steps for."""
    tried = Predictions(80)
    found = tried.search._exchanged(tried.schedule)
    first = next(found)[1]
    assert tried.count * 80 <= _STEPS_AT_ONCE
    exchanged = [first, *(schedule for _, schedule in found)]
    assert len(exchanged) == len(_pairs(tried.schedule)) == tried.count
    assert len({schedule.work.tobytes() for schedule in exchanged}) == len(exchanged)
    predicted = [tried.costs(schedule) for schedule in exchanged]
    assert sum(later < earlier for earlier, later in pairwise(predicted)) == 1  # where the second part begins


@pytest.mark.parametrize("gap", [1, 2, 3])
def test_neighbours_of_up_to_54_steps_come_by_promise_alone(gap: int) -> None:
    tried = Predictions(54, anchors=[0, 1, *range(2, 53, gap)])
    for found in (tried.search._moved(tried.draft), tried.search._exchanged(tried.schedule)):
        predicted = [tried.costs(schedule) for _, schedule in found]
        assert len(predicted) > 50
        assert predicted == sorted(predicted)


def test_no_run_of_up_to_54_steps_has_more_neighbours_than_are_predicted_at_once() -> None:
    for steps in (20, 53, 54):
        assert (steps - 1) * (steps - 2) // 2 * steps <= _STEPS_AT_ONCE
        for anchors in ([0, *range(1, steps, 2)], [0, *range(1, steps, 3)], range(steps), range(0, steps, 2)):
            tried = Predictions(steps, anchors=anchors)
            assert len(list(tried.search._moves(tried.draft))) * steps <= _STEPS_AT_ONCE


@each_case
def test_solved_drafts_have_the_number_of_anchors_that_is_asked_for(case: Problem) -> None:
    for count in (3, 5, 8):
        drafts = solved_drafts(realizer(case, 1.05, anchors=count), made_up_costs())
        assert drafts
        assert all(len(draft.anchors) == count for draft in drafts)
    assert solved_drafts(realizer(case, 2.0), made_up_costs())


class FakeTrials:
    """Measures by the map."""

    fit = can_skip = False
    sampler = SimpleNamespace(steps=50)

    def __init__(self, case: Problem, samples: Sequence[int] = range(4)) -> None:
        self.case, self.samples = case, tuple(samples)

    def with_samples(self, samples: Sequence[int]) -> FakeTrials:
        return FakeTrials(self.case, samples)

    def seen(self, count: int) -> FakeTrials:
        return FakeTrials(self.case, range(count))

    unseen = seen
    different_prompts, objective = 0, Objective()

    def until(self, deadline: float = 0.0) -> FakeTrials:
        return self

    def seconds_a_call(self) -> float:
        return 0.0

    def typical_error(self, schedule: Schedule) -> float:
        return error_of(self.case, schedule)

    def table_for(self, schedule: Schedule) -> SimpleNamespace:
        return self.sampler

    def held_out_errors(self, schedule: Schedule, seen: FakeTrials) -> NDArray[np.float64]:
        return self.squared_errors(schedule)

    def squared_errors(self, schedule: Schedule) -> NDArray[np.float64]:
        return np.full(len(self.samples), error_of(self.case, schedule) ** 2)


@pytest.mark.parametrize("spec", [DIGITS, FLUX_TOY], ids=lambda spec: spec.name)
@pytest.mark.parametrize("target", [Target(17), Target(17, 2.4), Target(flops_ratio=2.4)], ids=str)
def test_a_budget_is_the_number_of_anchors_of_the_best_too(
    spec: Any, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    if spec is FLUX_TOY and target.budget and target.flops_ratio:
        pytest.skip("17 anchors of a model that renews no tokens have one FLOPs ratio")
    case, clock, measured = problem(spec, "ddim", 50), FakeClock(), []

    def judge(trials: FakeTrials, schedule: Schedule) -> float:
        measured.append(schedule)
        clock.now += 1.0
        return error_of(trials.case, schedule)

    for module in (best, refine):
        monkeypatch.setattr(module, "time", clock)

    monkeypatch.setattr(best, "draw_panel", lambda *_: Panel(tuple(range(16))))
    monkeypatch.setattr(best, "measure_intervals", lambda *_: made_up_costs(50))
    monkeypatch.setattr(FakeTrials, "typical_error", judge)
    trials: Any = FakeTrials(case)
    found = search_best(case, target, trials, seconds=60.0, max_engines=12, progress=lambda *_: None)
    assert 20 < len(measured) <= 60
    if target.budget:
        assert {len(schedule.anchors) for schedule in measured} == {17}
        assert len(found.schedule.anchors) == 17
    if target.flops_ratio:
        assert found.schedule.flops_ratio(spec, case.rows) >= 2.4 * 0.99
    assert error_of(case, found.schedule) <= min(found.portfolio.values()) + 1e-9
