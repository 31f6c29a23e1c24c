"""Every planner: meets FLOPs ratios or says what it can reach, and never asks for what was not computed."""

from __future__ import annotations

import time
from typing import get_args

import numpy as np
import pytest

from soda_export.errors import PlanError
from soda_export.lower.lower import lower_plan
from soda_export.models.decisions import COMPUTE, IDLE, REUSE
from soda_export.models.identity import SamplerIdentity, identify
from soda_export.models.spec import ModelSpec
from soda_export.plan.plan import Plan
from soda_export.plan.planners import DESCRIPTIONS, PLANNERS, needs_map
from soda_export.plan.planners.soda import plan_soda
from soda_export.plan.prior import uniform_map
from soda_export.plan.problem import Problem, Target
from soda_export.plan.schedule import Schedule
from soda_export.plan.solve import PlannerName, PlanOptions, Setting, solve_plan, solve_without_map
from soda_export.search.published import MEASURING
from tests.plan.problems import (
    DIGITS,
    FLUX,
    FLUX_TOY,
    NESTED,
    PIXART_XL,
    SHAPES,
    UNET,
    check_history,
    problem,
    ratio_of,
)

PROBLEMS = (problem(DIGITS, "ddim", 50), problem(SHAPES, "dpm-solver++", 20, 4.5))
RATIOS = (1.5, 1.9, 2.2, 2.5, 2.75)
ELSEWHERE = ("deepcache", "pab", "sada-static")  # these have tests of their own
EVERYWHERE = [name for name in PLANNERS if name not in ELSEWHERE]
ONE_OF_BOTH = [name for name in EVERYWHERE if not name.startswith(("soda", "uas"))]
BY_ANCHORS = [name for name in EVERYWHERE if name not in ("toca", "duca")]
GENERIC = BY_ANCHORS

each_planner = pytest.mark.parametrize("name", EVERYWHERE)
each_problem = pytest.mark.parametrize("case", PROBLEMS, ids=lambda p: p.spec.name)


@each_planner
@each_problem
def test_flops_ratios_are_met_within_one_percent(name: str, case: Problem) -> None:
    for ratio in RATIOS:
        schedule = PLANNERS[name](case, Target(flops_ratio=ratio))
        assert ratio_of(schedule, case) == pytest.approx(ratio, rel=0.01)
        check_history(schedule)
        quanta = np.broadcast_to([site.keep_quantum for site in case.spec.sites], schedule.work.shape)
        renewed = (schedule.work > 0) & (schedule.work < COMPUTE)
        assert (schedule.work[renewed] % quanta[renewed] == 0).all()


@each_planner
@each_problem
def test_a_schedule_is_lowered_at_the_flops_it_promised(name: str, case: Problem) -> None:
    schedule = PLANNERS[name](case, Target(flops_ratio=2.2))
    sampler = SamplerIdentity(case.sampler, case.steps)
    table = lower_plan(Plan(identify(case.spec), sampler, case.guidance, schedule), case.spec)
    assert table.flops_ratio == pytest.approx(ratio_of(schedule, case))


@each_planner
def test_a_ratio_out_of_reach_is_refused_with_the_range(name: str) -> None:
    for case in PROBLEMS:
        with pytest.raises(PlanError, match=r"--flops-ratio 900: .* ratios of 1\.\d\d to \d+\.\d\d"):
            PLANNERS[name](case, Target(flops_ratio=900))
        with pytest.raises(PlanError, match="must be 1 or more"):
            PLANNERS[name](case, Target(flops_ratio=0.9))


@pytest.mark.parametrize("name", BY_ANCHORS)
def test_the_budget_is_the_number_of_anchors(name: str) -> None:
    case = PROBLEMS[0]
    for budget in (9, 17, 18, 50) if name != "smoothcache" else (14, 17, 18, 33, 50):
        schedule = PLANNERS[name](case, Target(budget))
        assert len(schedule.anchors) == budget
        check_history(schedule)
    with pytest.raises(PlanError, match=r"--budget 51: .*\d+ (to|\.\.) 50 anchors"):
        PLANNERS[name](case, Target(51))


@pytest.mark.parametrize("name", ["toca", "duca"])
def test_a_budget_that_the_rule_cannot_have_is_refused_with_its_neighbours(name: str) -> None:
    for budget in (2, 14, 18, 25, 44):
        assert len(PLANNERS[name](PROBLEMS[0], Target(budget)).anchors) == budget
    with pytest.raises(PlanError, match=r"--budget 24: .* 2 to 44 anchors, near this 23 or 25"):
        PLANNERS[name](PROBLEMS[0], Target(24))


@pytest.mark.parametrize("name", ONE_OF_BOTH)
def test_a_budget_and_a_ratio_together_are_refused(name: str) -> None:
    with pytest.raises(PlanError, match="not both"):
        PLANNERS[name](PROBLEMS[0], Target(17, 2.2))


@each_planner
def test_without_a_target_only_published_settings_are_planned(name: str) -> None:
    if name in ("toca", "duca", "fora", "taylorseer", "taylorseer1", "zeus"):
        check_history(PLANNERS[name](PROBLEMS[0], Target()))
    else:
        with pytest.raises(PlanError, match="--budget"):
            PLANNERS[name](PROBLEMS[0], Target())


def test_planners_that_need_a_map_say_so() -> None:
    bare = Problem(DIGITS, "ddim", 50, 1.5)
    for name in ("soda", "soda-cem", "soda-literal", "dcs", "uas", "dp-forecast", "smoothcache"):
        assert needs_map(name)
        with pytest.raises(PlanError, match="soda-export profile"):
            PLANNERS[name](bare, Target(17))
    for name in ("uniform", "fora", "taylorseer", "taylorseer1", "toca", "duca", "zeus", "sada-static", "skip-fitted"):
        assert not needs_map(name)
        check_history(PLANNERS[name](bare, Target(18)))
    assert needs_map("best")


def test_every_planner_is_described() -> None:
    assert PLANNERS.keys() == DESCRIPTIONS.keys()
    assert all("\n" not in line for line in DESCRIPTIONS.values())


@pytest.mark.parametrize("name", ["soda", "soda-cem", "soda-literal", "uas"])
def test_soda_takes_a_budget_and_a_ratio_together(name: str) -> None:
    schedule = PLANNERS[name](PROBLEMS[0], Target(17, 2.3))
    assert len(schedule.anchors) == 17
    assert ratio_of(schedule, PROBLEMS[0]) == pytest.approx(2.3, rel=0.01)
    with pytest.raises(PlanError, match=r"17 anchors of 50 steps reach \d\.\d\d to \d\.\d\d"):
        PLANNERS[name](PROBLEMS[0], Target(17, 5.0))


def predicted_error(case: Problem, schedule: Schedule) -> float:
    """Summed over the map, each step at the distance from its anchor."""
    assert case.sensitivity is not None
    total, anchors = 0.0, schedule.anchors
    grid = np.arange(9) / 8
    for t in sorted(set(range(case.steps)) - set(anchors)):
        n = t - max(a for a in anchors if a < t)
        for k in case.spec.leaves:
            reuse = case.sensitivity.reuse_error[t, k, n - 1]
            curve = [0.0, *case.sensitivity.prune_error[t, k, n - 1], reuse]
            total += float(np.interp(1 - schedule.work[t, k] / case.spec.sites[k].tokens, grid, curve))
    return total


def test_with_a_ratio_alone_no_other_budget_has_less_predicted_error() -> None:
    case = PROBLEMS[1]
    best = predicted_error(case, plan_soda(case, Target(flops_ratio=2.2), max_engines=1000))
    others = []
    for budget in range(2, 21):
        try:
            others.append(predicted_error(case, plan_soda(case, Target(budget, 2.2), max_engines=1000)))
        except PlanError:
            continue
    assert len(others) > 3
    assert best == pytest.approx(min(others))


@each_planner
def test_a_large_model_is_planned_in_seconds(name: str) -> None:
    case, before = problem(PIXART_XL, "dpm-solver++", 50, 4.5), time.process_time()
    PLANNERS[name](case, Target(flops_ratio=2.2))
    assert time.process_time() - before < 5


def test_the_command_line_offers_every_planner() -> None:
    assert set(get_args(PlannerName)) == {"best", *PLANNERS, *MEASURING}


@pytest.mark.parametrize("spec", [FLUX_TOY, NESTED], ids=lambda spec: spec.name)
@pytest.mark.parametrize("name", GENERIC)
def test_any_model_is_planned_for(spec: ModelSpec, name: str) -> None:
    case = problem(spec, "flow-match", 28, 1.0)
    if name == "soda-cem" and spec.stack is None:
        with pytest.raises(PlanError, match="nested has no stack"):
            PLANNERS[name](case, Target(12))
        return
    schedule = PLANNERS[name](case, Target(12))
    assert len(schedule.anchors) == 12
    check_history(schedule)
    for k, site in enumerate(spec.sites):
        if k not in spec.leaves:
            assert (schedule.work[~np.array(schedule.skips), k] == COMPUTE).all()
        if not site.tokens:
            assert ((schedule.work[:, k] == COMPUTE) | (schedule.work[:, k] <= 0)).all()
    lower_plan(Plan(identify(spec), SamplerIdentity("flow-match", 28), 1.0, schedule), spec)


@pytest.mark.parametrize("name", ["soda", "uas", "dcs", "uniform", "smoothcache"])
def test_ratios_are_met_where_no_tokens_can_be_renewed(name: str) -> None:
    case = problem(FLUX, "flow-match", 28, 1.0)
    for ratio in (1.4, 2.0, 2.6):
        assert ratio_of(PLANNERS[name](case, Target(flops_ratio=ratio)), case) == pytest.approx(ratio, rel=0.01)


def test_rules_published_for_a_family_are_refused_for_another() -> None:
    for name in ("toca", "duca"):
        with pytest.raises(PlanError, match="published for DiT, PixArt and Open-Sora, not for flux"):
            PLANNERS[name](problem(FLUX_TOY, "flow-match", 28, 1.0), Target())


@pytest.mark.parametrize("spec", [DIGITS, FLUX_TOY], ids=lambda spec: spec.name)
def test_a_map_where_every_place_is_alike_gives_evenly_spaced_anchors(spec: ModelSpec) -> None:
    plan = solve_plan(uniform_map(spec, "ddim", 50, 1.5), spec, PlanOptions(planner="soda", budget=17)).plan
    assert len(plan.anchors) == 17
    assert set(np.diff(plan.anchors)) <= {3, 4}


def test_planners_without_a_map_make_plans() -> None:
    setting = Setting(SamplerIdentity("ddim", 50), 1.5)
    plan = solve_without_map(setting, DIGITS, PlanOptions(planner="fora", budget=17)).plan
    assert len(plan.anchors) == 17
    assert (plan.sampler, plan.guidance, plan.map_hash) == (setting.sampler, 1.5, "")
    with pytest.raises(PlanError, match="--planner soda needs a sensitivity map"):
        solve_without_map(setting, DIGITS, PlanOptions(planner="soda", budget=17))


def test_no_planner_leaves_a_site_idle_but_where_all_blocks_or_whole_steps_are_skipped() -> None:
    for name in EVERYWHERE:
        schedule = PLANNERS[name](PROBLEMS[1], Target(flops_ratio=2.2))
        idle = (schedule.work == IDLE).any(axis=1) & ~np.array(schedule.skips)
        assert not idle.any() or name == "duca"
        assert any(schedule.skips) == (name in ("zeus", "skip-fitted"))


def test_deepcache_reuses_the_deep_feature_between_its_anchors() -> None:
    case = problem(UNET, "ddim", 50)
    schedule = PLANNERS["deepcache"](case, Target())
    assert schedule.anchors == tuple(range(0, 50, 3))
    deep, last = UNET.index["deep"], UNET.index["last"]
    assert (schedule.work[1, deep], schedule.work[1, last]) == (REUSE, COMPUTE)
    assert all(schedule.work[1, k] == IDLE for k, chain in enumerate(UNET.containers) if deep in chain)
    assert len(PLANNERS["deepcache"](case, Target(17)).anchors) == 17
    for ratio in RATIOS:
        fitted = PLANNERS["deepcache"](case, Target(flops_ratio=ratio))
        assert ratio_of(fitted, case) == pytest.approx(ratio, rel=0.01)
        check_history(fitted)
    with pytest.raises(PlanError, match="--planner deepcache: made for UNets; dit has no deep feature"):
        PLANNERS["deepcache"](PROBLEMS[0], Target(17))


@pytest.mark.parametrize("name", [name for name in BY_ANCHORS if name != "smoothcache"])
def test_planners_hold_for_sites_within_a_deep_feature(name: str) -> None:
    case = problem(UNET, "ddim", 20)
    schedule = PLANNERS[name](case, Target(8))
    assert len(schedule.anchors) == 8
    check_history(schedule)
