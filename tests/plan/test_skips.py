"""Steps that do not call the model: the word, what cannot be skipped, ZEUS's steps, and what stands in for it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from soda_export.errors import PlanError
from soda_export.models.identity import identify
from soda_export.plan.interchange.ones import computes
from soda_export.plan.planners.skips import plan_sada_static, plan_skip_fitted, plan_zeus, zeus_fill, zeus_steps
from soda_export.plan.problem import Problem, Target
from soda_export.plan.schedule import Schedule, skipped_work
from soda_export.plan.steps import read_step, write_step
from soda_export.report.schedule import draw_schedule
from soda_export.sampler import (
    SamplerTable,
    check_fills,
    freeze_sampler,
    hold,
    levels_of,
    with_memory,
    with_nodes,
)
from soda_export.sampler.levels import clean_sample
from tests.plan.problems import DIGITS, UNET, problem

CONFIG = {"num_train_timesteps": 1000, "beta_schedule": "linear", "clip_sample": False}
PROBLEM = Problem(DIGITS, "ddim", 50, 1.5)


def test_the_word_is_read_as_it_is_written() -> None:
    model = identify(DIGITS)
    assert write_step(model, skipped_work(DIGITS)) == "skip"
    assert np.array_equal(read_step(model, 3, "skip"), skipped_work(DIGITS))


def test_tidying_keeps_skipped_steps_and_they_cost_nothing() -> None:
    schedule = Schedule.full(DIGITS, 4)
    schedule.work[2] = skipped_work(DIGITS)
    tidy = Schedule.of(DIGITS, schedule.work)
    assert tidy.skips == [False, False, True, False]
    assert np.array_equal(tidy.work, schedule.work)
    assert tidy.flops_ratio(DIGITS, 2) == pytest.approx(4 / 3)
    assert tidy.renews(DIGITS, 2) == [True, True, False, True]
    assert "–" in draw_schedule(tidy, identify(DIGITS))[1]
    with pytest.raises(PlanError, match="step 2"):
        computes(tidy, identify(DIGITS), "SmoothCache")


def test_zeus_computes_what_its_published_setting_computes() -> None:
    """24 of 50: steps 0 .. 8, multiples of 3 up to 47, and the last two."""
    schedule = plan_zeus(PROBLEM, Target())
    assert schedule.anchors == (*range(9), *range(9, 48, 3), 48, 49)
    assert all(skipped == (t not in schedule.anchors) for t, skipped in enumerate(schedule.skips))


@pytest.mark.parametrize("planner", [plan_zeus, plan_skip_fitted])
def test_a_budget_and_a_ratio_are_met(planner: object) -> None:
    for budget in (2, 3, 7, 24, 49, 50):
        assert len(planner(PROBLEM, Target(budget)).anchors) == budget  # type: ignore[operator]
    for ratio in (1.5, 1.9, 2.5, 4.0):
        schedule = planner(PROBLEM, Target(0, ratio))  # type: ignore[operator]
        assert schedule.flops_ratio(DIGITS, 2) == pytest.approx(ratio, rel=0.01)


def test_a_ratio_that_whole_steps_meet_is_met_by_them() -> None:
    """A UNet computes so much outside its sites that a step with all of them reused is far from free."""
    schedule = plan_skip_fitted(problem(UNET, "ddim", 50), Target(flops_ratio=2.5))
    assert len(schedule.anchors) == 20
    assert sum(schedule.skips) == 30


def test_sadas_static_half_computes_what_its_release_computes_in_any_case() -> None:
    """With everything up to step 24 computed: 33 of 50, 25, 29, .., 45, 48 and 49 of the second half."""
    schedule = plan_sada_static(PROBLEM, Target())
    assert schedule.anchors == (*range(25), 25, 29, 33, 37, 41, 45, 48, 49)
    for budget in range(20, 51):
        assert len(plan_sada_static(PROBLEM, Target(budget)).anchors) == budget
    assert plan_sada_static(PROBLEM, Target(flops_ratio=1.9)).flops_ratio(DIGITS, 2) == pytest.approx(1.9, rel=0.01)
    with pytest.raises(PlanError, match=r"--budget 10: give 18 \.\. 50 anchors"):
        plan_sada_static(PROBLEM, Target(10))


CUBIC = torch.randn(4, 2, 1, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("sampler", "settings"),
    [
        ("ddim", {}), ("ddim", {"prediction_type": "v_prediction"}), ("dpm-solver++", {"prediction_type": "sample"}),
        ("euler", {}), ("euler", {"prediction_type": "v_prediction"}), ("flow-euler", {}),
    ],
)  # fmt: skip
def test_clean_samples_that_are_a_cubic_of_the_step_are_met_exactly(sampler: str, settings: dict[str, str]) -> None:
    """A model whose clean sample moves so: leaving steps out by four nodes changes nothing."""
    steps = 24
    flow = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
    config = flow if sampler.startswith("flow") else CONFIG | settings
    own = freeze_sampler(sampler, config, steps)
    skips = [t > 14 and t % 4 != 1 and t < 22 for t in range(steps)]
    table, levels = with_nodes(own, config, skips), levels_of(own, config, "test")

    def play(stepper: SamplerTable) -> torch.Tensor:
        state = stepper.begin(torch.ones(2, 1, 4, 4))
        for step in range(steps):
            clean = sum(CUBIC[power] * ((step - 12) / 12) ** power for power in range(4))
            of_x, of_prediction = clean_sample(levels, step) or (0.0, 0.0)
            state = stepper.advance(step, state, (clean - of_x * state[0]) / of_prediction, None)
        return state[0]

    check_fills(table, skips)
    torch.testing.assert_close(play(table), play(own), atol=2e-3, rtol=2e-3)


def test_zeus_steps_are_spread() -> None:
    for steps in (5, 20, 50):
        for budget in range(2, steps + 1):
            found = zeus_steps(steps, budget)
            assert len(set(found)) == budget
            assert found == tuple(sorted(found))
            assert found[0] == 0


def test_a_skipped_step_takes_its_fill_of_the_last_predictions() -> None:
    """Against the sampler itself, given the sum of predictions by hand."""
    own = freeze_sampler("dpm-solver++", CONFIG, 6)
    renews, skips = (True, True, False, False, True, False), (False, False, True, True, False, True)
    table = with_memory(own, renews, skips, zeus_fill)
    check_fills(table, skips)
    outputs = torch.randn(6, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    noise = torch.ones(2, 3, 4, 4)
    state, plain = table.begin(noise), own.begin(noise)
    line = 2 * outputs[1] - outputs[0]
    fills = {2: line, 3: line, 5: 2 * outputs[4] - outputs[1]}
    for step in range(6):
        state = table.advance(step, state, outputs[step], None)
        plain = own.advance(step, plain, fills.get(step, outputs[step]), None)
    assert torch.allclose(state[: own.state_size], plain, atol=1e-4)
    assert torch.equal(state[own.state_size], outputs[4])
    assert torch.equal(state[own.state_size + 1], outputs[1])


def test_long_runs_of_zeus_take_the_last_prediction_in_turn() -> None:
    assert [zeus_fill(run, 2)[0] for run in (1, 2, 3, 4, 5)] == [2.0, 2.0, 1.0, 2.0, 1.0]
    assert zeus_fill(1, 1) == (1.0,) == hold(1, 2)


@pytest.mark.parametrize(
    ("sampler", "skips", "says"),
    [
        ("ddim", (True, False), "step 0: skip: nothing has been predicted yet"),
        ("ddpm", (False, True), "step 1: skip: ddpm takes the size of its noise from the model"),
    ],
)
def test_what_cannot_be_skipped_is_said(sampler: str, skips: tuple[bool, ...], says: str) -> None:
    config = CONFIG | ({"variance_type": "learned_range"} if sampler == "ddpm" else {})
    own = freeze_sampler(sampler, config, 2, learned_variance=sampler == "ddpm")
    with pytest.raises(PlanError, match=says):
        with_memory(own, [not skipped for skipped in skips], skips)


def test_coefficients_that_ask_for_a_prediction_are_refused() -> None:
    own = freeze_sampler("ddim", CONFIG, 3)
    with pytest.raises(PlanError, match="step 1: skip: its coefficients give the prediction a weight"):
        check_fills(own, (False, True, False))
