"""Every fourth prompt is kept from a search, and its samples judge what was found."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from soda_export.plan.plan import HeldOut, plan_text, read_plan
from soda_export.plan.problem import Problem, Target
from soda_export.plan.schedule import Schedule
from soda_export.search.best import search_best
from soda_export.search.held_out import seen_numbers, unseen_numbers
from soda_export.search.journal import Journal
from soda_export.search.trial import OutOfTime, Trials


@pytest.mark.parametrize("prompts", [0, 1, 2, 4, 6, 7, 8, 32, 61, 64])
def test_no_sample_and_no_prompt_is_both_seen_and_unseen(prompts: int) -> None:
    seen, unseen = seen_numbers(192, prompts), unseen_numbers(64, prompts)
    assert (len(set(seen)), len(set(unseen))) == (192, 64)
    assert not set(seen) & set(unseen)
    if prompts >= 8:
        assert not {i % prompts for i in seen} & {i % prompts for i in unseen}
        assert len({i % prompts for i in unseen}) == min(64, prompts // 4)
    elif prompts:  # noise is held out, of every prompt alike
        assert [i % prompts for i in unseen] == [i % prompts for i in range(64)]
        assert seen[: 3 * prompts] == tuple(range(3 * prompts))


def test_batches_of_seen_samples_follow_each_other() -> None:
    assert seen_numbers(4, 32) + seen_numbers(4, 32, 4) == seen_numbers(8, 32)


def test_fitted_samplers_are_judged_as_they_were_fitted_elsewhere(trials: Trials, problem: Problem) -> None:
    seen, unseen = trials.seen(4), trials.unseen(3)
    seen.fit, seen.journal = True, Journal()
    schedule = Schedule.at_anchors(problem.spec, problem.steps, tuple(range(0, problem.steps, 2)))
    squares = (unseen.play(schedule, seen.fit_sampler(schedule)) - unseen.states[-1][0]).square().flatten(1).mean(1)
    assert unseen.held_out_errors(schedule, seen) == pytest.approx(squares.numpy(), rel=1e-5)
    assert unseen.held_out_errors(schedule, seen) != pytest.approx(unseen.squared_errors(schedule), rel=1e-3)


def test_a_run_ends_at_the_deadline(trials: Trials, problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = count()
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    own = trials.seen(2).until(1.0)  # ticks of two steps
    own.journal, own._states = Journal(), []
    with pytest.raises(OutOfTime):
        own.squared_errors(Schedule.full(problem.spec, problem.steps))
    assert not own._states
    assert next(ticks) == 3
    assert len(own.until().squared_errors(Schedule.full(problem.spec, problem.steps))) == 2


def test_where_nothing_was_measured_nothing_is_found(trials: Trials, problem: Problem) -> None:
    own = trials.seen(2)
    own.journal = Journal()
    with pytest.raises(OutOfTime):
        search_best(problem, Target(5), own, seconds=1e-6, max_engines=12, progress=lambda *_: None)


def test_a_plan_says_how_far_from_its_calibration_it_was_tested(trials: Trials, tmp_path: Path) -> None:
    plan = trials.plan(Schedule.full(trials.spec, trials.sampler.steps))
    assert b"held_out" not in plan_text(plan)
    judged = replace(plan, held_out=HeldOut(0.125, 0.0625, 32, 16))
    (tmp_path / "plan.json").write_bytes(plan_text(judged))
    held_out = read_plan(tmp_path / "plan.json").held_out
    assert held_out == judged.held_out
    assert held_out is not None
    assert held_out.words == "RMSE 0.125 on 32 unseen samples of 16 prompts, 0.0625 on its own"
