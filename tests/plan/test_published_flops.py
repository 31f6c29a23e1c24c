"""The baselines at their published settings cost what their papers report, in the papers' convention."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from soda_export.models.decisions import COMPUTE, IDLE, REUSE
from soda_export.models.flops import full_step_flops
from soda_export.plan.planners.duca import plan_duca
from soda_export.plan.planners.fora import plan_fora
from soda_export.plan.planners.taylorseer import plan_taylorseer
from soda_export.plan.planners.toca import plan_toca
from soda_export.plan.problem import Problem, Target
from soda_export.plan.schedule import Schedule
from tests.plan.problems import DIT_XL, PIXART_XL, at

DDIM = Problem(DIT_XL, "ddim", 50, 1.5)
DDPM = Problem(DIT_XL, "ddpm", 250, 1.5)
PIXART = Problem(PIXART_XL, "dpm-solver++", 20, 4.5)


def test_a_step_of_dit_xl_costs_what_the_convention_says() -> None:
    assert full_step_flops(DIT_XL, 2) / 1e12 == pytest.approx(0.474706, abs=5e-7)


@pytest.mark.parametrize(("problem", "teraflops"), [(DDIM, 23.735), (DDPM, 118.676), (PIXART, 11.18)])
def test_a_run_that_computes_everything_costs_what_is_published(problem: Problem, teraflops: float) -> None:
    assert problem.full_flops / 1e12 == pytest.approx(teraflops, rel=1.5e-3)


@pytest.mark.parametrize(
    ("planner", "problem", "teraflops"), [(plan_toca, DDPM, 43.42), (plan_toca, DDIM, 10.23), (plan_duca, DDIM, 9.575)]
)
def test_token_planners_cost_what_is_published(
    planner: Callable[..., Schedule], problem: Problem, teraflops: float
) -> None:
    schedule = planner(problem, Target(), quantize=False)
    assert schedule.flops(DIT_XL, problem.rows) / 1e12 == pytest.approx(teraflops, rel=1e-3)


def test_two_steps_of_a_run_are_full_in_layer_0_only() -> None:
    """Without these, ToCa would cost 11.13 TFLOPs with DDIM, and DuCa 10.49."""
    for planner in (plan_toca, plan_duca):
        work = planner(DDIM, Target()).work
        first, second = (work[:, 2 * layer : 2 * layer + 2] for layer in (0, 1))
        full = [(layer == COMPUTE).all(axis=1) for layer in (first, second)]
        assert [49 - t for t in range(50) if full[0][t] and not full[1][t]] == [45, 32]  # s counts down


def test_attention_is_never_computed_for_a_subset_of_tokens() -> None:
    for problem in (DDIM, DDPM, PIXART):
        for planner in (plan_toca, plan_duca):
            work = planner(problem, Target()).work[:, at(problem.spec, "attn")]
            assert set(work.flat) <= {REUSE, COMPUTE, IDLE}


def test_pixart_computes_fewer_tokens_for_cross_attention_than_for_the_mlp() -> None:
    schedule = plan_toca(PIXART, Target(), quantize=False)
    assert schedule.anchors == (0, 6, 9, 12, 15, 18)
    by_layer = schedule.work[:, :-1].reshape(20, 28, 3)
    # fresh 0.3, layer 1.6 -> 0.4, step 1.9 - 1.8 / 20
    assert by_layer[1, 0].tolist() == [REUSE, int(0.3 * 1.6 * 1.81 * 0.6 * 256), COMPUTE]
    assert by_layer[1, 27].tolist() == [0, int(0.3 * 0.4 * 1.81 * 0.6 * 256), int(0.3 * 0.4 * 1.81 * 1.6 * 256)]
    assert (by_layer[4, 0] == COMPUTE).all()
    assert (by_layer[4, 1:, 0] == REUSE).all()


def test_duca_skips_all_blocks_where_s_mod_n_is_even() -> None:
    schedule = plan_duca(PIXART, Target())
    assert schedule.anchors == (0, 3, 6, 9, 12, 15, 18)
    skipped = schedule.work[:, PIXART_XL.stack] == REUSE
    assert np.flatnonzero(skipped).tolist() == [2, 5, 8, 11, 14, 17]
    assert (schedule.work[skipped, :-1] == IDLE).all()


def test_fora_and_taylorseer_compute_the_released_steps() -> None:
    fora = plan_fora(DDIM, Target())
    assert fora.anchors == (0, *range(1, 50, 3))  # s = 49, then 48, 45, .. 0
    taylorseer = plan_taylorseer(DDIM, Target())
    assert taylorseer.anchors == (0, 1, *range(5, 50, 4))
    assert taylorseer.flops_ratio(DIT_XL, 2) == pytest.approx(3.57, rel=5e-3)  # as released for N = 4
