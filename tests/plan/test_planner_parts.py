"""What planners are made of: periods, partial steps, orders within their history, thresholds, FLOPs by table."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from soda_export.errors import PlanError
from soda_export.models.decisions import COMPUTE, IDLE
from soda_export.plan.planners import PLANNERS
from soda_export.plan.planners.flops_table import FlopsTable
from soda_export.plan.planners.fora import plan_fora
from soda_export.plan.planners.interpolate import partial_anchor
from soda_export.plan.planners.orders import limit_orders
from soda_export.plan.planners.periods import offsets
from soda_export.plan.planners.smoothcache import plan_smoothcache, reuse_while_below
from soda_export.plan.planners.taylorseer import plan_taylorseer
from soda_export.plan.problem import Problem, Target
from soda_export.plan.schedule import Schedule
from tests.plan.problems import DIGITS, NESTED, at, check_history, problem, ratio_of

PROBLEMS = (problem(DIGITS, "ddim", 50),)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.floats(1.0, 3.0), st.sampled_from(["uniform", "fora", "taylorseer", "taylorseer1"]))
def test_any_ratio_is_met_or_refused_with_what_can_be_reached(steps: int, ratio: float, name: str) -> None:
    case = Problem(DIGITS, "ddim", steps, 1.5)
    try:
        schedule = PLANNERS[name](case, Target(flops_ratio=ratio))
    except PlanError as error:
        reached = str(error)
    else:
        reached = "this planner reaches it"
        assert schedule.flops(DIGITS, 2) * ratio / case.full_flops == pytest.approx(1.0, abs=0.01)
        check_history(schedule)
    assert "reach" in reached


@given(st.integers(1, 300), st.data())
def test_offsets_are_as_many_as_asked_and_within_the_run(steps: int, data: st.DataObject) -> None:
    budget = data.draw(st.integers(min(2, steps), steps))
    found = offsets(steps, budget)
    assert len(found) == budget - 1
    assert list(found) == sorted(set(found))
    assert all(0 <= offset <= steps - 2 for offset in found)


@given(st.integers(3, 120), st.integers(1, 12))
def test_a_number_of_anchors_that_a_whole_period_gives_has_the_released_steps(steps: int, period: int) -> None:
    """FORA: s = S-1 and every s that N divides. TaylorSeer: the first two steps, then every N-th."""
    case = Problem(DIGITS, "ddim", steps, 1.5)
    for planner in (plan_fora, plan_taylorseer):
        released = planner(case, Target(), period=period).anchors
        longer = planner(case, Target(), period=period + 1).anchors
        by_budget = planner(case, Target(len(released))).anchors
        assert len(by_budget) == len(released)
        if len(longer) < len(released):  # of several periods with as many anchors the longest is taken
            assert by_budget == released


@pytest.mark.parametrize(("anchors", "whole", "chosen"), [
    ((0, 4, 8, 11, 15, 19), 1, 8),  # 8 and 11 have neighbours 7 apart; 8 is closer to the middle
    ((0, 1, 4, 7, 10, 13), 1, 1),
    ((0, 1, 4, 7, 10, 13), 2, 10),  # the neighbours of all are 6 apart
    ((0, 19), 1, 19),
])  # fmt: skip
def test_the_anchor_whose_neighbours_are_closest_is_computed_in_part(
    anchors: tuple[int, ...], whole: int, chosen: int
) -> None:
    assert partial_anchor(anchors, 20, whole) == chosen


def test_a_partial_step_computes_the_first_layers_and_forecasts_the_rest() -> None:
    schedule = PLANNERS["taylorseer"](PROBLEMS[0], Target(flops_ratio=2.3))
    work = schedule.work[:, DIGITS.leaves]
    full = work == COMPUTE
    partial = [t for t in range(50) if full[t].any() and not full[t].all()]
    assert len(partial) == 1
    computed = full[partial[0]]
    assert (np.sort(computed)[::-1] == computed).all()
    assert (work[partial[0], ~computed] == -2).all()


schedules = st.integers(0, 2**32 - 1).map(lambda seed: random_schedule(np.random.default_rng(seed)))


def random_schedule(rng: np.random.Generator) -> Schedule:
    """Of DIGITS: any work of the leaf sites, and of the stack."""
    work = rng.choice([-2, -1, 0, 8, COMPUTE], (12, len(DIGITS.sites)))
    work[:, DIGITS.stack] = rng.choice([COMPUTE, COMPUTE, COMPUTE, 0, -1, -2], 12)
    work[0] = COMPUTE
    return Schedule.of(DIGITS, work)


@settings(deadline=None)
@given(schedules)
def test_limited_orders_are_the_highest_that_the_history_allows(schedule: Schedule) -> None:
    limited = limit_orders(schedule)
    check_history(limited)
    lowered = limited.work != schedule.work
    assert (schedule.work[lowered] < limited.work[lowered]).all()
    computed = np.cumsum(schedule.work == COMPUTE, axis=0)
    assert (-limited.work[lowered] == computed[lowered] - 1).all()
    assert (limit_orders(limited).work == limited.work).all()


@settings(deadline=None)
@given(schedules)
def test_the_table_gives_the_schedules_own_flops(schedule: Schedule) -> None:
    assert FlopsTable(PROBLEMS[0]).flops(schedule) == schedule.flops(DIGITS, 2)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
@example(175)  # one of its steps leaves every site idle
def test_what_a_reused_site_contains_is_idle_and_costs_nothing(seed: int) -> None:
    work = np.random.default_rng(seed).choice([0, -1, 8, COMPUTE, IDLE], (5, len(NESTED.sites)))
    schedule, skipped = Schedule.of(NESTED, work), (work == IDLE).all(axis=1)
    assert schedule.skips == skipped.tolist()
    by_site = dict(zip([site.name for site in NESTED.sites], schedule.work[~skipped].T, strict=True))
    for inner, outer in (("down.attn", "down"), ("down.ff", "down"), ("up.attn", "up")):
        assert ((by_site[inner] == IDLE) == (by_site[outer] != COMPUTE)).all()
    assert (by_site["mid"] != IDLE).all()
    assert (Schedule.of(NESTED, schedule.work).work == schedule.work).all()
    full, spent = Schedule.full(NESTED, 1), Schedule.full(NESTED, 1)
    spent.work[:, 2] = 0  # down, 10,000 a row, and its sites of 100,000 and 200,000
    assert full.flops(NESTED, 2) - Schedule.of(NESTED, spent.work).flops(NESTED, 2) == 2 * 310_000


@settings(deadline=None)
@given(st.integers(2, 30), st.integers(1, 4), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_smoothcache_skips_as_far_as_the_threshold_allows(steps: int, most: int, threshold: float, seed: int) -> None:
    error = np.random.default_rng(seed).random((steps, most))
    expected, t = np.zeros(steps, bool), 0
    while t < steps:
        expected[t] = True
        skips = [k for k in range(1, most + 1) if t + k < steps and error[t + k, k - 1] <= threshold]
        t += 1 + max(skips, default=0)
    expected[-1] = True
    assert (reuse_while_below(error, threshold) == expected).all()


def test_smoothcache_gives_all_sites_of_a_kind_one_list_and_sites_their_own() -> None:
    schedule = plan_smoothcache(PROBLEMS[0], Target(flops_ratio=2.5), per_site=True)
    attention = schedule.work[:, at(DIGITS, "attn")]
    assert (attention != attention[:, :1]).any()
    assert ratio_of(schedule, PROBLEMS[0]) == pytest.approx(2.5, rel=0.01)
    shared = plan_smoothcache(PROBLEMS[0], Target(flops_ratio=2.5))
    different = 0
    for kind in ("attn", "ff"):
        work = shared.work[:, at(DIGITS, kind)]
        different += int((np.diff(work, axis=1) != 0).any(axis=0).sum())
    assert different <= 1  # at most the place where the two thresholds meet


def test_smoothcache_meets_every_number_of_anchors_by_one_list() -> None:
    for budget in range(14, 51):
        schedule = plan_smoothcache(PROBLEMS[0], Target(budget))
        assert len(schedule.anchors) == budget
        assert (schedule.work[:, DIGITS.leaves] == schedule.work[:, :1]).all()
    with pytest.raises(PlanError, match=r"--budget 12: .* at most 3 steps in a row; give 1\d \.\. 50 anchors"):
        plan_smoothcache(PROBLEMS[0], Target(12))
