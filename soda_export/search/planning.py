"""From a map and options to a plan: budgets in every unit, and the planner that is asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..compile.options import EngineOptions
from ..errors import UsageError
from ..options import BundleOptions, ProfileOptions
from ..plan.anchors import anchor_cost, solve_anchors
from ..plan.plan import Plan
from ..plan.planners import needs_map
from ..plan.planners.skips import zeus_fill
from ..plan.sensitivity import MAX_INTERVAL, SensitivityMap
from ..plan.solve import PlanOptions, Setting, SolvedPlan, solve_plan, solve_without_map
from ..sampler import check_skips, hold, with_nodes
from .measuring import fit_plan, plan_best, plan_published
from .objective import check_objective
from .published import MEASURING
from .speedup import MOST_TRIES, measure_latency, plan_for_speedup

if TYPE_CHECKING:
    from ..workbench.pipeline import Workbench

_FITTED = ("skip-fitted", "gram")  # planners whose skipped steps take what least squares say


def check_budget(options: PlanOptions, steps: int) -> None:
    """Refuse an impossible or contradictory budget, or objective, before anything is measured."""
    check_objective(options.objective)
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
    if options.budget and needs_map(options.planner):  # which has no longer intervals; the others refuse by themselves
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
    each = options.plan_seconds / MOST_TRIES

    def plan(ratio: float) -> SolvedPlan:
        return _plan(bench, sensitivity, replace(options, flops_ratio=ratio, plan_seconds=each), calibration)

    return plan_for_speedup(bench, plan, options, latency)


def _plan(
    bench: Workbench, sensitivity: SensitivityMap | None, options: PlanOptions, calibration: ProfileOptions
) -> SolvedPlan:
    fits = options.planner in _FITTED
    if fits and options.fit_sampler == "never":
        raise UsageError(
            f"--planner {options.planner} fits the sampler: leave out --fit-sampler never, or use --planner zeus"
        )
    if sensitivity is not None and options.planner == "best":
        return plan_best(bench, sensitivity, options, calibration)
    if options.planner in MEASURING:
        solved = plan_published(bench, options, calibration)
    elif sensitivity is None:
        timesteps = bench.sampler.timesteps
        setting = Setting(bench.identity, bench.options.guidance, calibration.token_score, timesteps)
        solved = solve_without_map(setting, bench.loaded.spec, options)
    else:
        solved = solve_plan(sensitivity, bench.loaded.spec, options)
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
