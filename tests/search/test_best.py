"""`best`: never worse than what it measured, within its budget, and able to go on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from soda_export.lower.lower import lower_plan
from soda_export.models.identity import SamplerIdentity
from soda_export.options import ProfileOptions
from soda_export.plan.planners import PLANNERS
from soda_export.plan.problem import Problem, Target
from soda_export.plan.schedule import BLOCKS_RUN, Schedule
from soda_export.profile.calibration import LabelCalibration
from soda_export.search.best import search_best
from soda_export.search.closed_loop import MEASURED_WAYS, IntervalCosts, Way, _Interval, measure_intervals
from soda_export.search.draft import Draft, Realizer
from soda_export.search.journal import Journal
from soda_export.search.panel import Panel, draw_panel
from soda_export.search.predict import Predictor
from soda_export.search.refine import Search, _exchanges
from soda_export.search.trial import Trials
from tests.conftest import OpenBench
from tests.tiny import make_plan

STEPS = 12


@pytest.fixture(scope="module")
def problem(open_bench: OpenBench) -> Problem:
    bench = open_bench(steps=STEPS)
    sensitivity = bench.profile(ProfileOptions(samples=4))
    return Problem(bench.loaded.denoiser.spec, "ddim", STEPS, 1.5, sensitivity)


def make_trials(open_bench: OpenBench, samples: int = 4, journal: Journal | None = None) -> Trials:
    bench = open_bench(steps=STEPS)
    calibration = LabelCalibration(bench.loaded.denoiser.spec, 2)
    return Trials(
        bench.loaded.denoiser, bench.sampler, SamplerIdentity("ddim", STEPS), 1.5, calibration, range(samples),
        journal=journal,
    )  # fmt: skip


def test_computing_everything_has_no_error(open_bench: OpenBench, problem: Problem) -> None:
    everything = Schedule.at_anchors(problem.spec, STEPS, tuple(range(STEPS)))
    assert make_trials(open_bench).rmse(everything) < 1e-6


def test_an_interval_costs_what_its_schedule_measures(open_bench: OpenBench, problem: Problem) -> None:
    """Order 0 needs no history, so one interval left out is a schedule of its own."""
    trials = make_trials(open_bench)
    for way, column in ((Way(0, False), 0),):
        assert MEASURED_WAYS[column] == way
        schedule = Schedule.at_anchors(problem.spec, STEPS, tuple(t for t in range(STEPS) if t not in (5, 6)))
        found = _Interval(trials, 4, 3).play()[column]
        assert found == pytest.approx(float(trials.squared_errors(schedule).mean()), rel=1e-3)


def test_costs_are_interpolated_through_what_was_measured(open_bench: OpenBench) -> None:
    trials = make_trials(open_bench)
    costs = measure_intervals(trials, 60.0, lambda *_: None)
    assert costs.squares[3, 4] == pytest.approx(_Interval(trials, 3, 4).play(), rel=1e-3)
    assert (costs.squares[:, 1] == 0).all()
    assert np.isinf(costs.squares[STEPS - 2, 4]).all()


def test_the_panel_seats_the_most_sensitive_samples(open_bench: OpenBench, problem: Problem) -> None:
    trials = make_trials(open_bench)
    panel = draw_panel(trials, 60.0, lambda: None)
    pool = trials.with_samples(range(len(panel.ranked)))
    pilots = [Schedule.at_anchors(problem.spec, STEPS, tuple(range(0, STEPS, 3)), order) for order in (0, 2)]
    ends = [pool.play(pilot, pool.sampler) for pilot in pilots]
    moved = ((ends[0] - ends[1]) ** 2).mean(dim=(1, 2, 3)).numpy()
    assert len(panel.ranked) >= 16
    assert set(panel.ranked[:4]) == set(np.argsort(moved)[-4:].tolist())


def test_a_panel_stands_for_its_pool() -> None:
    panel = Panel((5, 2, 7, 0, 1, 3, 4, 6))
    assert panel.choose(4) == (5, 2, 0, 1)
    assert panel.weights(4).tolist() == pytest.approx([1 / 8, 1 / 8, 3 / 8, 3 / 8])
    squares = np.array([9.0, 4.0, 1.0, 1.0])  # of the chosen; the other four are like the last two
    assert panel.weights(4) @ squares == pytest.approx((9 + 4 + 6 * 1) / 8)
    for count in (1, 3, 8, 20):
        assert len(panel.choose(count)) == len(panel.weights(count)) == min(count, 8)
        assert panel.weights(count).sum() == pytest.approx(1.0)
    assert panel.choose(20) == panel.ranked


def test_best_is_the_best_of_what_it_measured(open_bench: OpenBench, problem: Problem) -> None:
    trials = make_trials(open_bench)
    found = search_best(
        problem, Target(flops_ratio=2.0), trials, seconds=8.0, max_engines=12, progress=lambda *_: None
    )
    panel = draw_panel(trials, 0.0, lambda: None)  # taken from the journal
    many, weights = trials.with_samples(panel.choose(16)), panel.weights(16)

    def rmse(schedule: Schedule) -> float:
        return float(np.sqrt(weights @ many.squared_errors(schedule)))

    leader = min(found.portfolio, key=lambda name: found.portfolio[name])
    assert found.rmse <= rmse(PLANNERS[leader](problem, Target(flops_ratio=2.0)))
    assert found.rmse == pytest.approx(rmse(found.schedule))
    assert found.schedule.flops_ratio(problem.spec, problem.rows) >= 2.0 * 0.99
    assert found.schedule.num_kinds <= 12


def test_a_stopped_search_takes_its_measurements_from_the_journal(
    open_bench: OpenBench, problem: Problem, tmp_path: Path
) -> None:
    path = tmp_path / "journal.jsonl"
    trials = make_trials(open_bench, journal=Journal(path))
    schedule = PLANNERS["soda"](problem, Target(budget=5))
    error = trials.rmse(schedule)
    with path.open("a") as file:
        file.write('{"key": "cut o')  # killed while writing
    again = make_trials(open_bench, journal=Journal(path))
    again.denoiser = None  # type: ignore[assignment]  # nothing may be played
    assert again.journal.get("interval 1 2") is None
    again.denoiser = trials.denoiser
    assert again.rmse(schedule) == error
    assert not again._states  # the unaccelerated run was not needed either


def realizer(problem: Problem, ratio: float, max_engines: int = 12) -> Realizer:
    assert problem.sensitivity is not None
    return Realizer(problem.spec, problem.rows, STEPS, problem.full_flops / ratio, max_engines, problem.sensitivity)


def test_a_draft_spends_its_budget_and_no_more(problem: Problem) -> None:
    for ratio in (1.6, 2.0, 2.6):
        anchors = tuple(range(0, STEPS, 4))
        draft = Draft(anchors, (Way(2, False),) * len(anchors), (2, 6))
        schedule = realizer(problem, ratio).realize(draft)
        assert schedule is not None
        assert schedule.flops(problem.spec, problem.rows) <= problem.full_flops / ratio
        partial = (schedule.kept[[2, 6]] == problem.spec.num_tokens).any(axis=(1, 2))
        assert partial[0]  # the first of the partial steps gets what is left


def test_drafts_beyond_the_budget_or_the_engines_are_refused(problem: Problem) -> None:
    many = Draft(tuple(range(STEPS)), (Way(0, False),) * STEPS)
    assert realizer(problem, 2.0).realize(many) is None
    few = Draft((0, 6), (Way(0, False), Way(1, False)))
    assert realizer(problem, 2.0).realize(few) is not None
    assert realizer(problem, 2.0, max_engines=2).realize(few) is None
    stacked = realizer(problem, 2.0).realize(Draft((0, 6), (Way(0, True), Way(1, True))))
    assert stacked is not None
    assert stacked.stack.tolist() == [BLOCKS_RUN, *[0] * 5, BLOCKS_RUN, *[1] * 5]


def make_search(problem: Problem, trials: Trials, deadline: float = float("inf")) -> Search:
    predict = Predictor(measure_intervals(trials, 0.0, lambda *_: None), problem.spec, problem.rows)
    return Search(realizer(problem, 2.0), trials.rmse, predict, deadline, lambda: None)


def test_refining_never_makes_it_worse(open_bench: OpenBench, problem: Problem) -> None:
    search = make_search(problem, make_trials(open_bench, samples=2))
    start = Draft((0, 2, 4, 6, 8), (Way(0, False),) * 5, (10,))
    ((_, schedule),) = search.promising([start])
    before = search.try_schedule(schedule, "start")
    search.refine_draft(start, before, "refined")
    moved = search.finalists(1)[0]
    assert moved.error <= before
    search.refine_schedule(moved.schedule, moved.error, "exchanged")
    best = search.finalists(1)[0]
    assert best.error <= moved.error
    errors = [finalist.error for finalist in search.finalists(100)]
    assert errors == sorted(errors)
    assert len({m.schedule.kept.tobytes() + m.schedule.stack.tobytes() for m in search.measured}) == len(errors)


def test_refining_stops_at_the_deadline(open_bench: OpenBench, problem: Problem) -> None:
    search = make_search(problem, make_trials(open_bench, samples=2), deadline=0.0)
    schedule = Schedule.at_anchors(problem.spec, STEPS, (0, 2, 4, 6, 8))
    search.refine_schedule(schedule, search.try_schedule(schedule, "start"), "exchanged")
    assert len(search.measured) == 1


def test_exchanged_steps_are_the_same_work(problem: Problem) -> None:
    tokens = problem.spec.num_tokens
    schedule = Schedule.at_anchors(problem.spec, STEPS, (0, 3, 6, 9))
    schedule.kept[4, 0], schedule.kept[7, :, 1] = tokens, 16
    others = list(_exchanges(schedule, tokens))
    assert len(others) == 3 * 8 + 2 * 6 + 1  # an anchor with another step, one of the two with a reused one, or both
    for other in others:
        assert sorted(row.tobytes() for row in other.kept) == sorted(row.tobytes() for row in schedule.kept)
        assert (other.kept[0] == tokens).all()
        assert other.flops(problem.spec, problem.rows) == schedule.flops(problem.spec, problem.rows)
    assert len({other.kept.tobytes() for other in others}) == len(others)


def test_exchanged_forecasts_have_the_history_that_they_need(problem: Problem) -> None:
    schedule = Schedule.at_anchors(problem.spec, STEPS, (0, 1, 2, 8), 2)
    for other in _exchanges(schedule, problem.spec.num_tokens):
        lower_plan(make_plan(problem.spec, other.kept), problem.spec)  # refuses what was never computed


def test_a_prediction_adds_up_the_intervals(open_bench: OpenBench, problem: Problem) -> None:
    squares = np.full((STEPS, 11, len(MEASURED_WAYS)), np.inf)
    for gap in range(1, 11):
        for anchor in range(STEPS - gap):
            squares[anchor, gap] = (gap - 1) * (1 + anchor)
    predict = Predictor(IntervalCosts(squares, 0), problem.spec, problem.rows)
    assert predict(Schedule.at_anchors(problem.spec, STEPS, tuple(range(STEPS)))) == 0.0
    assert predict(Schedule.at_anchors(problem.spec, STEPS, (0, 2, 5, *range(6, STEPS)))) == pytest.approx(1 + 2 * 3)
    to_the_end = Schedule.at_anchors(problem.spec, STEPS, tuple(range(STEPS - 1)))
    assert predict(to_the_end) == pytest.approx(1 + STEPS - 3)  # as the last interval of its gap that was measured
    half = Schedule.at_anchors(problem.spec, STEPS, (0, *range(2, STEPS)))
    half.kept[1, 0] = problem.spec.num_tokens
    assert 0.3 < predict(half) < 0.8
