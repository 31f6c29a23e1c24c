"""From a map and options to a plan: budgets in every unit, and `best`, which measures."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..bench.latency import StepLatency, check_can_time, probe_schedule, time_kinds
from ..compile.options import EngineOptions
from ..errors import PlanError, UsageError
from ..models.identity import TokenScore
from ..options import BundleOptions, ProfileOptions
from ..plan.anchors import anchor_cost, solve_anchors
from ..plan.plan import Plan
from ..plan.planners.skips import zeus_fill
from ..plan.problem import Problem, Target
from ..plan.sensitivity import MAX_INTERVAL, SensitivityMap
from ..plan.solve import (
    PlanOptions,
    Setting,
    SolvedPlan,
    check_engines,
    flops_ratio,
    make_plan,
    problem_of,
    solve_plan,
    solve_without_map,
)
from ..policy.adaptive import AdaptivePolicy
from ..policy.file import read_policy, write_policy
from ..policy.options import PolicyOptions
from ..sampler import can_skip, check_skips, hold, with_nodes
from ..workbench.calibration import Calibration
from .best import MORE_SAMPLES, affordable_samples, search_best
from .gate import calibrate_policy
from .journal import Journal
from .published import MEASURING
from .trial import Trials

if TYPE_CHECKING:
    from ..workbench.pipeline import Workbench

log = logging.getLogger(__name__)
_CLOSE = 0.01  # a speedup is met when it is predicted within this share
_CORRECTIONS = 4  # times that a FLOPs ratio is adjusted to meet a speedup


def check_budget(options: PlanOptions, steps: int) -> None:
    """Refuse an impossible or contradictory budget before anything is measured."""
    if options.speedup and options.latency_ms:
        raise UsageError("--speedup and --latency-ms: give one of them")
    timed = bool(options.speedup or options.latency_ms)
    if timed and (options.budget or options.flops_ratio):
        raise UsageError("--speedup and --latency-ms are budgets of their own: leave out --budget and --flops-ratio")
    if not timed and not options.budget and not options.flops_ratio:
        raise UsageError(
            "--budget is missing: the number of steps that compute everything, e.g. --budget 17; or give "
            "--flops-ratio, --speedup or --latency-ms"
        )
    for name, value, least in (("--speedup", options.speedup, 1.0), ("--latency-ms", options.latency_ms, 0.0)):
        if value and not least <= value < np.inf:
            raise UsageError(f"{name} {value:g}: must be a number above {least:g}")
    if options.budget:
        error = np.ones((steps, MAX_INTERVAL))
        solve_anchors(anchor_cost(options.cost, error, options.budget), options.budget)


def make_plan_for(
    bench: Workbench, sensitivity: SensitivityMap | None, options: PlanOptions,
    calibration: ProfileOptions = ProfileOptions(),
    bundle: BundleOptions = BundleOptions(), engines: EngineOptions = EngineOptions(),
) -> SolvedPlan:  # fmt: skip
    """Plan for the map; without one where the planner reads none. calibration: `best` measures with the texts of
    profiling. bundle, engines: what latencies are measured of. Raises PlanError with the reachable range."""
    sensitivity = None if sensitivity is None else bench.fit_map(sensitivity)
    check_budget(options, bench.sampler.steps)
    if not options.speedup and not options.latency_ms:
        return _plan(bench, sensitivity, options, calibration)
    latency = measure_latency(bench, options.latency_batch, bundle, engines)
    return _plan_for_speedup(bench, sensitivity, options, calibration, latency)


def _plan(
    bench: Workbench, sensitivity: SensitivityMap | None, options: PlanOptions, calibration: ProfileOptions
) -> SolvedPlan:
    if sensitivity is not None and options.planner == "best":
        return _search(bench, sensitivity, options, calibration)
    if options.planner in MEASURING:
        solved = _measure(bench, options, calibration)
    elif sensitivity is None:
        timesteps = bench.sampler.timesteps
        setting = Setting(bench.identity, bench.options.guidance, calibration.token_score, timesteps)
        solved = solve_without_map(setting, bench.loaded.spec, options)
    else:
        solved = solve_plan(sensitivity, bench.loaded.spec, options)
    fits = options.planner == "skip-fitted"
    if fits and options.fit_sampler == "never":
        raise UsageError("--planner skip-fitted fits the sampler: leave out --fit-sampler never, or use --planner zeus")
    if not fits and options.fit_sampler != "always":
        return replace(solved, plan=_with_fills(bench, solved.plan, options.planner))
    check_skips(bench.sampler, solved.plan.schedule.skips)
    return replace(solved, plan=fit_plan(bench, solved.plan, options, calibration))


def _with_fills(bench: Workbench, plan: Plan, planner: str) -> Plan:
    """The plan with what its planner puts in the place of predictions where it skips steps."""
    skips = plan.schedule.skips
    if planner == "sada-static" and any(skips):
        table = with_nodes(bench.sampler, bench.loaded.scheduler_config, skips, bench.options.eta)
        return replace(plan, coefficients=table.coefficients)
    return bench.completed(plan, zeus_fill if planner == "zeus" else hold)


def make_policy(bench: Workbench, options: PolicyOptions, calibration: ProfileOptions) -> AdaptivePolicy:
    """The policy that is asked for, calibrated, or taken from its file. Raises PlanError, UsageError."""
    options.check(bench.sampler.steps)
    used = bench.calibration(replace(calibration, samples=max(calibration.samples, options.policy_samples)))
    inputs = {
        "model": bench.loaded.spec, "scheduler": bench.loaded.scheduler_config, "sampler": bench.options, **used.key,
        "policy": asdict(options),
    }  # fmt: skip

    def make(folder: Path) -> None:
        trials = Trials(
            bench.eager, bench.sampler, bench.identity, bench.options.guidance, used.conditions(),
            range(options.policy_samples),
        )  # fmt: skip
        policy = calibrate_policy(trials, bench.loaded.scheduler_config, options)
        log.info("policy: %s, %.1f calls of %d steps on average", policy.name, policy.calls, policy.steps)
        write_policy(policy, folder)

    return read_policy(bench.store.produce("calibration", inputs, make), bench.sampler)


def fit_plan(bench: Workbench, plan: Plan, options: PlanOptions, calibration: ProfileOptions) -> Plan:
    """A plan, whoever made it, with the sampler fitted to its schedule, in the place of what it had fitted."""
    samples = MORE_SAMPLES * options.plan_samples
    trials = _trials(bench, plan.token_score, options, bench.calibration(calibration), samples)
    coefficients = trials.fit_sampler(plan.schedule).coefficients
    made_by = f"{plan.made_by.removesuffix(' fitted')} fitted".strip()
    return replace(plan, coefficients=coefficients, made_by=made_by)


def _trials(
    bench: Workbench, token_score: TokenScore, options: PlanOptions, calibration: Calibration, samples: int
) -> Trials:
    """What schedules are measured, or fitted, on."""
    if options.plan_samples < 1:
        raise UsageError(f"--plan-samples {options.plan_samples}: at least 1 generation must be measured")
    return Trials(
        bench.eager, bench.sampler, bench.identity, bench.options.guidance,
        calibration.conditions(), range(samples), token_score, fit=options.fit_sampler != "never",
    )  # fmt: skip


def _search(
    bench: Workbench, sensitivity: SensitivityMap, options: PlanOptions, calibration: ProfileOptions
) -> SolvedPlan:
    """`best`. Its measurements are kept in a journal, so that a search that was stopped goes on."""
    if not 0.0 <= options.plan_seconds < np.inf:
        raise UsageError(f"--plan-seconds {options.plan_seconds:g}: must be a number of seconds, 0 or more")
    spec, used = bench.loaded.spec, bench.calibration(calibration)
    problem, target = problem_of(sensitivity, spec, options), Target(options.budget, options.flops_ratio)
    trials = _trials(bench, sensitivity.info.token_score, options, used, options.plan_samples)
    samples = affordable_samples(trials, options.plan_seconds) if options.plan_seconds else 0
    if samples < options.plan_samples and options.plan_seconds:
        fit = f"only {samples} samples fit" if samples else "no measurements fit"
        log.warning("plan: %s into --plan-seconds %g", fit, options.plan_seconds)
    if not samples:
        return solve_plan(sensitivity, spec, replace(options, planner="soda"))
    trials = _resumed(bench, trials.with_samples(range(samples)), sensitivity.info.token_score, used)
    found = search_best(
        problem, target, trials, seconds=options.plan_seconds, max_engines=options.max_engines,
        progress=lambda done, total: bench.progress("plan", int(done), int(total)),
    )  # fmt: skip
    made_by = (
        f"best ({found.by}) budget={options.budget} flops_ratio={options.flops_ratio:g} samples={samples} "
        f"measured={found.measured} max_engines={options.max_engines}" + (" fitted" if trials.fit else "")
    )
    coefficients = found.sampler.coefficients if trials.fit or any(found.schedule.skips) else None
    return SolvedPlan(make_plan(sensitivity, found.schedule, made_by, coefficients))


def _measure(bench: Workbench, options: PlanOptions, calibration: ProfileOptions) -> SolvedPlan:
    """A published planner that plays schedules, or full runs."""
    if not 0.0 < options.plan_seconds < np.inf:
        raise UsageError(f"--plan-seconds {options.plan_seconds:g}: --planner {options.planner} needs time to measure")
    target, used = Target(options.budget, options.flops_ratio), bench.calibration(calibration)
    problem = Problem(bench.loaded.spec, bench.sampler.name, bench.sampler.steps, bench.options.guidance)
    given = replace(options, fit_sampler="never")
    trials = _trials(bench, calibration.token_score, given, used, options.plan_samples)
    started = time.perf_counter()
    schedule = MEASURING[options.planner](
        problem, target, _resumed(bench, trials, calibration.token_score, used), options.plan_seconds,
        lambda: bench.progress("plan", int(time.perf_counter() - started), int(options.plan_seconds)),
    )  # fmt: skip
    check_engines(schedule, options)
    made_by = f"{options.planner} budget={options.budget} flops_ratio={options.flops_ratio:g}"
    return SolvedPlan(replace(bench.plan_of(schedule, made_by), token_score=calibration.token_score))


def _resumed(bench: Workbench, trials: Trials, token_score: TokenScore, used: Calibration) -> Trials:
    """The trials with all that was measured on the same samples before, and a journal of what will be."""
    inputs = {
        "model": bench.loaded.spec, "scheduler": bench.loaded.scheduler_config, "sampler": bench.options, **used.key,
        "samples": len(trials.samples), "token_score": token_score,
    }  # fmt: skip
    trials.journal = Journal(bench.store.resumable("trials", inputs) / "journal.jsonl")
    return trials


def measure_latency(bench: Workbench, batch: int, bundle: BundleOptions, engines: EngineOptions) -> StepLatency:
    """Time every kind of step on the backend, with a bundle that is made for that by the same options."""
    check_can_time(bundle.backend, batch, engines)
    spec = bench.loaded.spec
    schedule = probe_schedule(spec, bench.sampler.steps, can_skip(bench.sampler))
    plan = bench.plan_of(schedule, "probe of step latencies")
    out = bench.store.root / f"probe-{spec.name}-{bundle.backend}"
    built = bench.build(plan, bundle.backend, out, bundle, engines)
    latency = time_kinds(built.out, schedule, spec, batch)
    log.info(
        "latency: %.2f ms a step of everything, %.2f ms with caching, %.2f ms reused, batch %d",
        1e3 * latency.whole, 1e3 * latency.anchor, 1e3 * latency.reused[0], batch,
    )  # fmt: skip
    return latency


def _plan_for_speedup(
    bench: Workbench, sensitivity: SensitivityMap | None, options: PlanOptions, calibration: ProfileOptions,
    latency: StepLatency,
) -> SolvedPlan:  # fmt: skip
    """Find the FLOPs ratio whose plan has the wanted speedup by the measured step latencies."""
    spec = bench.loaded.spec
    rows, steps = bench.rows, bench.sampler.steps
    wanted = options.speedup or latency.unaccelerated(steps) / (options.latency_ms / 1e3)
    given = f"--speedup {wanted:g}" if options.speedup else f"--latency-ms {options.latency_ms:g}"
    if wanted <= 1.0:
        raise PlanError(
            f"{given}: computing everything takes {1e3 * latency.unaccelerated(steps):.1f} ms, no plan is needed"
        )
    ratio, low, high = wanted, 1.0, np.inf
    best: SolvedPlan | None = None
    for _ in range(_CORRECTIONS):
        try:
            solved = _plan(bench, sensitivity, replace(options, flops_ratio=ratio), calibration)
        except PlanError as error:
            if best is not None:  # it has the speedup; only one nearer to it was looked for
                break
            raise PlanError(f"{given}: needs a FLOPs ratio of {ratio:.2f}; {error}") from None
        reached_speedup = latency.speedup(solved.plan.schedule, spec, rows)
        log.info("plan: FLOPs ratio %.3f, predicted speedup %.3f", flops_ratio(solved.plan, spec), reached_speedup)
        if reached_speedup >= wanted * (1 - _CLOSE):
            best = solved
            if reached_speedup <= wanted * (1 + 2 * _CLOSE):
                break
            high = min(high, ratio)
        else:
            low = max(low, ratio)
        ratio *= wanted / reached_speedup
        if not low < ratio < high:
            ratio = (low + min(high, 2 * low)) / 2
    if best is None:
        raise PlanError(f"{given}: not reached; the closest plan has a speedup of {reached_speedup:.2f}")
    return best
