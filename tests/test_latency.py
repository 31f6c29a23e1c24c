"""Budgets in time: what schedules are predicted to take, and plans that meet a speedup or a latency."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from soda_export.bench.latency import StepLatency, check_can_time, probe_schedule, time_kinds
from soda_export.compile.options import EngineOptions
from soda_export.errors import PlanError, UsageError
from soda_export.lower.lower import lower_plan
from soda_export.models.decisions import COMPUTE, MAX_ORDER
from soda_export.models.identity import SamplerIdentity, identify
from soda_export.options import BundleOptions, ProfileOptions
from soda_export.plan.plan import Plan
from soda_export.plan.schedule import Schedule
from soda_export.plan.solve import PlanOptions, SolvedPlan
from soda_export.search import planning, speedup
from tests.conftest import OpenBench
from tests.plan.test_solve import SPEC

LATENCY = StepLatency(1, 0.010, 0.011, (0.001, 0.002, 0.003), (0.0005, 0.0006, 0.0007), 0.002)


def test_steps_of_the_kinds_that_were_timed_cost_what_they_took() -> None:
    work = Schedule.at_anchors(SPEC, 6, (0, 1, 2)).work
    work[4, list(SPEC.leaves)], work[5, SPEC.stack] = -2, -1
    schedule = Schedule.of(SPEC, work)
    assert LATENCY.of(schedule, SPEC, 2) == pytest.approx(0.002 + 3 * 0.011 + 0.001 + 0.003 + 0.0006)
    assert LATENCY.speedup(schedule, SPEC, 2) == pytest.approx((0.002 + 6 * 0.010) / LATENCY.of(schedule, SPEC, 2))


def test_a_step_in_between_costs_in_proportion_to_its_flops() -> None:
    work = Schedule.at_anchors(SPEC, 2, (0,)).work
    work[1, list(SPEC.leaves[: len(SPEC.leaves) // 2])] = COMPUTE  # half of the layers
    schedule = Schedule.of(SPEC, work)
    assert LATENCY.of(schedule, SPEC, 2) == pytest.approx(0.002 + 0.011 + 0.001 + 0.5 * 0.010, rel=1e-6)


@pytest.mark.parametrize("steps", [10, 20, 50])
def test_the_probe_has_every_kind_of_step(steps: int) -> None:
    schedule = probe_schedule(SPEC, steps)
    lower_plan(Plan(identify(SPEC), SamplerIdentity("ddim", steps), 1.5, schedule), SPEC)
    for order in range(MAX_ORDER + 1):
        assert (schedule.work[:, SPEC.stack] == -order).any()
        assert (schedule.work[:, list(SPEC.leaves)] == -order).all(axis=1).any()


def test_too_few_steps_cannot_be_probed() -> None:
    with pytest.raises(PlanError, match="at least 10 steps"):
        probe_schedule(SPEC, 9)


def test_every_kind_of_step_of_a_real_bundle_is_timed(open_bench: OpenBench, tmp_path: Path) -> None:
    bench = open_bench(steps=12)
    schedule = probe_schedule(bench.loaded.spec, 12)
    built = bench.build(bench.plan_of(schedule, "probe"), "ort", tmp_path / "bundle", BundleOptions())
    latency = time_kinds(built.out, schedule, bench.loaded.spec, 2)
    for seconds in (latency.whole, latency.anchor, *latency.reused, *latency.stack, latency.rest):
        assert 0.0 < seconds < 1.0


@pytest.mark.parametrize("options", [{"speedup": 2.0}, {"latency_ms": 62.0}])
def test_a_budget_in_time_is_met(
    open_bench: OpenBench, monkeypatch: pytest.MonkeyPatch, options: dict[str, float]
) -> None:
    """122 ms of computing everything; both budgets ask for about half."""
    bench = open_bench(steps=12)
    monkeypatch.setattr(planning, "measure_latency", lambda *_: LATENCY)
    sensitivity = bench.profile(ProfileOptions(samples=2))
    solved = planning.make_plan_for(bench, sensitivity, PlanOptions(planner="soda", **options))  # type: ignore[arg-type]
    found = LATENCY.speedup(solved.plan.schedule, bench.loaded.spec, 2)
    assert 0.99 * 122 / 62 <= found <= 2.3


def test_what_cannot_be_reached_is_refused(open_bench: OpenBench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = open_bench(steps=12)
    monkeypatch.setattr(planning, "measure_latency", lambda *_: LATENCY)
    sensitivity = bench.profile(ProfileOptions(samples=2))
    with pytest.raises(PlanError, match="--speedup 50"):
        planning.make_plan_for(bench, sensitivity, PlanOptions(planner="soda", speedup=50.0))
    with pytest.raises(PlanError, match="no plan is needed"):
        planning.make_plan_for(bench, sensitivity, PlanOptions(planner="soda", latency_ms=200.0))
    for options, message in [
        ({"speedup": 2.0, "latency_ms": 5.0}, "give one of them"), ({}, "--budget is missing"),
        ({"speedup": 2.0, "budget": 4}, "leave out --budget"), ({"speedup": np.nan}, "--speedup nan"),
        ({"speedup": 0.5}, "--speedup 0.5"),
    ]:  # fmt: skip
        with pytest.raises(UsageError, match=message):
            planning.check_budget(PlanOptions(**options), 12)  # type: ignore[arg-type]


def test_planning_for_a_speedup_takes_the_seconds_that_it_was_given(
    open_bench: OpenBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, given = open_bench(steps=12), list[float]()
    monkeypatch.setattr(planning, "measure_latency", lambda *_: LATENCY)
    sensitivity = bench.profile(ProfileOptions(samples=2))
    soda = partial(planning.solve_plan, sensitivity, bench.loaded.spec)

    def plan(*asked: Any) -> SolvedPlan:
        given.append(asked[2].plan_seconds)
        return soda(replace(asked[2], planner="soda"))

    monkeypatch.setattr(planning, "plan_best", plan)
    planning.make_plan_for(bench, sensitivity, PlanOptions(speedup=1.8, plan_seconds=60.0))
    assert len(given) > 1
    assert sum(given) <= 60.0


@pytest.mark.parametrize(("planner", "budget"), [("uniform", 2), ("gram", 5), ("zeus", 3)])
def test_budgets_below_what_a_map_reaches_are_left_to_planners_that_read_none(planner: Any, budget: int) -> None:
    planning.check_budget(PlanOptions(planner=planner, budget=budget), 50)
    with pytest.raises(PlanError, match="cover 50 steps with 6 to 50 anchors"):
        planning.check_budget(PlanOptions(planner="soda", budget=budget), 50)


def test_a_plan_that_meets_the_budget_is_kept_where_a_nearer_one_is_refused(
    open_bench: OpenBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = open_bench(steps=12)
    monkeypatch.setattr(planning, "measure_latency", lambda *_: LATENCY)
    sensitivity = bench.profile(ProfileOptions(samples=2))
    generous = planning.make_plan_for(bench, sensitivity, PlanOptions(planner="soda", flops_ratio=2.6))
    answers = iter([generous])

    def plan(*_: object) -> object:
        for answer in answers:
            return answer
        raise PlanError("--flops-ratio 2.1: cannot be reached")

    monkeypatch.setattr(planning, "_plan", plan)
    found = planning.make_plan_for(bench, sensitivity, PlanOptions(planner="soda", speedup=1.5))
    assert found is generous


def test_engines_for_another_gpu_cannot_be_timed_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soda_export.compile.nvidia.targets.device_target", lambda *_: "sm90")
    check_can_time("trt_rtx", 1, EngineOptions(target=("sm89", "sm90")))
    check_can_time("trt_rtx", 1, EngineOptions())
    with pytest.raises(PlanError, match="--target sm89: this machine's GPU is sm90; give --budget or --flops-ratio"):
        check_can_time("trt_rtx", 1, EngineOptions(target=("sm89",)))
    with pytest.raises(UsageError, match="--latency-batch 8: engines take at most 4; raise --max-batch"):
        check_can_time("trt_rtx", 8, EngineOptions())
    check_can_time("ort", 8, EngineOptions())


def test_the_probe_is_built_with_the_options_of_the_bundle(
    open_bench: OpenBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = open_bench(steps=12)
    bundle, engines = BundleOptions(backend="trt_rtx", precision="fp16"), EngineOptions(("sm90",), 5, 0.5, "inputs", 2)
    built: list[tuple[object, ...]] = []

    def build(plan: object, backend: str, out: Path, *options: object) -> SimpleNamespace:
        built.append((backend, *options))
        return SimpleNamespace(out=out)

    monkeypatch.setattr("soda_export.compile.nvidia.targets.device_target", lambda *_: "sm90")
    monkeypatch.setattr(bench, "build", build)
    monkeypatch.setattr(speedup, "time_kinds", lambda *_: LATENCY)
    sensitivity = bench.profile(ProfileOptions(samples=2))
    planning.make_plan_for(
        bench, sensitivity, PlanOptions(planner="soda", speedup=2.0, latency_batch=2), bundle=bundle, engines=engines
    )
    assert built == [("trt_rtx", bundle, engines)]
