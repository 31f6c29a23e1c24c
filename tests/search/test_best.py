"""`best`: never worse than what it measured, within its budget, and able to go on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from soda_export.errors import PlanError
from soda_export.plan.planners import PLANNERS
from soda_export.plan.problem import Problem, Target
from soda_export.plan.schedule import Schedule
from soda_export.sampler import SamplerTable
from soda_export.search import best
from soda_export.search.best import search_best
from soda_export.search.closed_loop import MEASURED_WAYS, Way, _Interval, measure_intervals
from soda_export.search.final import Jury, RunOff
from soda_export.search.held_out import seen_numbers
from soda_export.search.journal import Journal
from soda_export.search.panel import Panel, draw_panel
from soda_export.search.refine import Measured
from soda_export.search.trial import Trials
from tests.search.conftest import STEPS, SetClock


def copy_of(trials: Trials, samples: int = 4, journal: Journal | None = None) -> Trials:
    """The same with a journal of its own."""
    made = trials.with_samples(range(samples))
    made.journal = Journal() if journal is None else journal
    return made


def test_computing_everything_has_no_error(trials: Trials, problem: Problem) -> None:
    everything = Schedule.at_anchors(problem.spec, STEPS, tuple(range(STEPS)))
    assert trials.rmse(everything) < 1e-6


def test_an_interval_costs_what_its_schedule_measures(trials: Trials, problem: Problem) -> None:
    """Order 0 needs no history, so one interval left out is a schedule of its own."""
    trials = copy_of(trials)
    for way, column in ((Way(0, False), 0),):
        assert MEASURED_WAYS[column] == way
        schedule = Schedule.at_anchors(problem.spec, STEPS, tuple(t for t in range(STEPS) if t not in (5, 6)))
        found = _Interval(trials, 4, 3).play()[column]
        assert found == pytest.approx(float(trials.squared_errors(schedule).mean()), rel=1e-3)


def test_costs_are_interpolated_through_what_was_measured(trials: Trials) -> None:
    trials = copy_of(trials)
    costs = measure_intervals(trials, 0.0, lambda *_: None)  # of the first, a middle and a late anchor
    assert costs.squares[4, 4] == pytest.approx(_Interval(trials, 4, 4).play(), rel=1e-3)
    assert ((costs.squares[2, 4] - costs.squares[0, 4]) * (costs.squares[4, 4] - costs.squares[2, 4]) >= 0).all()
    assert (costs.squares[:, 1] == 0).all()
    assert np.isinf(costs.squares[STEPS - 2, 4]).all()


def test_the_panel_seats_the_most_sensitive_samples(trials: Trials, problem: Problem, set_clock: SetClock) -> None:
    set_clock(1.0 / (4.5 * 2 * STEPS * 16))  # for four and a half batches of two pilots with 8 samples of two rows
    trials = copy_of(trials)
    trials = trials.with_samples(range(8))
    panel = draw_panel(trials, 1.0, lambda: None)
    pool = trials.seen(len(panel.ranked))
    pilots = [Schedule.at_anchors(problem.spec, STEPS, tuple(range(0, STEPS, 3)), order) for order in (0, 2)]
    ends = [pool.play(pilot, pool.sampler) for pilot in pilots]
    moved = ((ends[0] - ends[1]) ** 2).mean(dim=(1, 2, 3)).numpy()
    assert panel.measured
    assert len(panel.ranked) == 32
    assert set(panel.ranked[:4]) == {pool.samples[i] for i in np.argsort(moved)[-4:]}
    with_sensitive = panel.choose(8)
    assert set(with_sensitive[:4]) == set(panel.ranked[:4])
    assert set(panel.choose(4)) <= set(with_sensitive) <= set(panel.choose(12))


def test_without_time_for_more_samples_the_panel_takes_them_as_they_come(
    trials: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = copy_of(trials)
    monkeypatch.setattr(Trials, "play", lambda *_: pytest.fail("there is nothing to choose from"))
    panel = draw_panel(trials, 0.0, lambda: None)
    assert panel.choose(4) == (0, 1, 2, 4)  # 3 is for judging
    assert panel.choose(8) == panel.ranked[:8]
    assert panel.weights(8).tolist() == [1 / 8] * 8


def test_a_panel_that_the_last_fit_would_outgrow_is_not_measured(trials: Trials, set_clock: SetClock) -> None:
    set_clock(1.0 / (2.5 * 2 * STEPS * 16))  # there is time for two and a half batches; the last fit may want four
    panel = draw_panel(copy_of(trials).with_samples(range(8)), 1.0, lambda: None)
    assert not panel.measured
    assert len(panel.ranked) == 32


def test_a_longer_search_ranks_more_samples_than_the_one_before(trials: Trials, set_clock: SetClock) -> None:
    trials, row = copy_of(trials), 2 * STEPS * 16
    for batches, ranked in ((1.2, 0), (4.5, 32), (4.5, 32), (1.2, 32), (8.5, 96)):  # in the end four and eight
        set_clock(1.0 / (batches * row))
        panel = draw_panel(trials.with_samples(range(8)), 1.0, lambda: None)
        assert (len(panel.ranked) if panel.measured else 0) == ranked


def test_finalists_are_compared_on_recorded_samples_that_the_search_left_out(trials: Trials, problem: Problem) -> None:
    panel = Panel(seen_numbers(32, 0), measured=False)
    pool = copy_of(trials).with_samples(panel.choose(32))
    searched = pool.with_samples(panel.choose(8))
    run_off = RunOff(pool, searched, panel, 32, Jury.left_out(pool, searched, 32))
    schedule = PLANNERS["soda"](problem, Target(flops_ratio=2.0))
    measured = Measured(searched.typical_error(schedule), schedule, "soda")

    def errors(samples: tuple[int, ...], sampler: SamplerTable) -> NDArray[np.float64]:
        some = trials.with_samples(samples)
        return (some.play(schedule, sampler) - some.states[-1][0]).square().mean(dim=(1, 2, 3)).sqrt().double().numpy()

    left_out = panel.ranked[-16:]
    assert run_off.jury.typical_error(schedule) == pytest.approx(
        errors(left_out, searched.table_for(schedule)).mean(), rel=1e-3
    )
    finalist = run_off.refit(run_off.enter(measured))
    assert finalist.fitted.samples == panel.ranked
    held_out = run_off.report(finalist)
    unseen = trials.unseen(16).samples
    assert held_out.rmse == pytest.approx(
        np.sqrt((errors(unseen, finalist.fitted.table_for(schedule)) ** 2).mean()), rel=1e-3
    )


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


def test_best_is_the_best_of_what_it_measured(trials: Trials, problem: Problem, set_clock: SetClock) -> None:
    trials = copy_of(trials)
    set_clock(1e-3)
    found = search_best(
        problem, Target(flops_ratio=2.0), trials, seconds=6.0, max_engines=12, progress=lambda *_: None
    )
    held_out = found.held_out
    assert held_out is not None
    unseen = trials.unseen(held_out.samples)
    assert {number % 4 for number in unseen.samples} == {3}

    def rmse(schedule: Schedule, sampler: SamplerTable) -> float:
        return float((unseen.play(schedule, sampler) - unseen.states[-1][0]).square().mean().sqrt())

    assert "gram" in found.portfolio
    leader = min(set(found.portfolio) & set(PLANNERS), key=lambda name: found.portfolio[name])
    assert held_out.rmse <= rmse(PLANNERS[leader](problem, Target(flops_ratio=2.0)), trials.sampler) + 1e-6
    assert held_out.rmse == pytest.approx(rmse(found.schedule, found.sampler), rel=1e-4)
    assert found.schedule.flops_ratio(problem.spec, problem.rows) >= 2.0 * 0.99
    assert found.schedule.num_kinds <= 12


def test_a_search_holds_its_time_where_every_trial_is_slow(
    trials: Trials, problem: Problem, monkeypatch: pytest.MonkeyPatch, set_clock: SetClock
) -> None:
    """As on a busy machine: nothing that the time has no room for is begun."""
    trials, clock = copy_of(trials, samples=4), set_clock(5e-4)
    monkeypatch.setattr(best, "measure_intervals", lambda *_: pytest.fail("there is no time for it"))
    found = search_best(problem, Target(5), trials, seconds=1.5, max_engines=12, progress=lambda *_: None)
    assert clock.now <= 1.2 * 1.5
    assert len(found.schedule.anchors) == 5


def test_best_has_as_many_anchors_as_the_budget(trials: Trials, problem: Problem, set_clock: SetClock) -> None:
    trials = copy_of(trials, samples=2)
    set_clock(1e-3)
    found = search_best(problem, Target(5), trials, seconds=2.0, max_engines=12, progress=lambda *_: None)
    assert len(found.schedule.anchors) == 5
    soda = PLANNERS["soda"](problem, Target(5))
    assert found.schedule.flops(problem.spec, problem.rows) <= 1.01 * soda.flops(problem.spec, problem.rows)


def test_where_soda_ends_steps_without_the_model_go_on(
    trials: Trials, problem: Problem, set_clock: SetClock
) -> None:
    trials = copy_of(trials, samples=2)
    set_clock(1e-3)
    with pytest.raises(PlanError, match=r"1\.00 to 2\.80"):
        PLANNERS["soda"](problem, Target(flops_ratio=4.0))
    found = search_best(problem, Target(flops_ratio=4.0), trials, seconds=2.0, max_engines=12, progress=lambda *_: None)
    assert found.schedule.flops_ratio(problem.spec, problem.rows) >= 4.0 * 0.99
    for ratio, engines, refusal in ((50.0, 12, r"--flops-ratio 50: .* 1\.00 to 6\.00"), (4.0, 1, "--max-engines 1")):
        asked = Target(flops_ratio=ratio)
        with pytest.raises(PlanError, match=refusal):
            search_best(problem, asked, trials, seconds=2.0, max_engines=engines, progress=lambda *_: None)


def test_a_search_that_is_run_again_finds_what_it_found(
    trials: Trials, problem: Problem, tmp_path: Path, set_clock: SetClock
) -> None:
    """Though the journal answers at once, time is shared out by what a generation takes."""
    found = []
    for _ in range(2):
        own = copy_of(trials, journal=Journal(tmp_path / "journal.jsonl"))
        set_clock(30.0 / 500 / (2 * len(own.samples)))
        found.append(
            search_best(problem, Target(flops_ratio=2.0), own, seconds=30.0, max_engines=12, progress=lambda *_: None)
        )
    first, again = found
    assert again.measured >= first.measured
    unseen = trials.unseen(16)
    errors = [np.sqrt(unseen.play(f.schedule, f.sampler).sub(unseen.states[-1][0]).square().mean()) for f in found]
    assert errors[1] <= 1.05 * errors[0]


def test_a_stopped_search_takes_its_measurements_from_the_journal(
    trials: Trials, problem: Problem, tmp_path: Path
) -> None:
    path = tmp_path / "journal.jsonl"
    trials = copy_of(trials, journal=Journal(path))
    schedule = PLANNERS["soda"](problem, Target(budget=5))
    error = trials.rmse(schedule)
    with path.open("a") as file:
        file.write('{"key": "cut o')  # killed while writing
    again = copy_of(trials, journal=Journal(path))
    again.sampling, again._states = None, []  # type: ignore[assignment]  # nothing may be played
    assert again.rmse(schedule) == error
    assert not again._states  # the unaccelerated run was not needed either
