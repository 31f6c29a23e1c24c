"""From the arguments that build, profile and plan share to a workbench and a plan."""

from __future__ import annotations

import logging
from pathlib import Path

from ..bench.latency import check_can_time
from ..compile.options import EngineOptions
from ..models.load import DEFAULT_PARTS, TEXT_PARTS, ModelRequest, load_model
from ..options import BundleOptions, ProfileOptions, SamplerRequest, defaults_for
from ..plan.plan import Plan, read_plan
from ..plan.planners import needs_map
from ..plan.sensitivity import SensitivityMap, read_map
from ..plan.solve import PlanOptions, SolvedPlan
from ..search.planning import check_budget, make_plan_for
from ..workbench.pipeline import Progress, Workbench
from ..workbench.stages import SHELF, StageStore

log = logging.getLogger("soda_export.cli")


def open_workbench(
    model: ModelRequest, request: SamplerRequest, progress: Progress, given: Plan | SensitivityMap | None = None,
    parts: tuple[str, ...] = (*DEFAULT_PARTS, *TEXT_PARTS),
) -> Workbench:  # fmt: skip
    """Load the model and freeze the sampler; what was not asked for follows the given plan or map."""
    loaded = load_model(model, parts)
    if isinstance(given, Plan):
        base, origin = (given.sampler, given.guidance), "the plan's"
    elif given is not None:
        base, origin = (given.info.sampler, given.info.guidance), "the map's"
    else:
        base, origin = defaults_for(loaded), ""
    options = request.resolve(*base)
    bench = Workbench(loaded, options, StageStore(SHELF / ".work"), progress)
    log.info("sampler: %s", request.origins(options, origin))
    return bench


UNIFORM = "uniform"
"""What --map says instead of a file, to plan without a profile as if every step and site were alike."""


def given_map(path: Path | None) -> SensitivityMap | None:
    """The map of --map, if it is a file."""
    return None if path is None or str(path) == UNIFORM else read_map(path)


def given_plan(path: Path | None) -> Plan | None:
    """The plan of --plan, if any."""
    return None if path is None else read_plan(path)


def has_budget(options: PlanOptions | None) -> bool:
    """Whether a target was given in some unit."""
    return options is not None and bool(
        options.budget or options.flops_ratio or options.speedup or options.latency_ms
    )


def budget_name(options: PlanOptions | None) -> str:
    """What was asked for, as a part of a file name: b17, x2.5 (FLOPs ratio), s2 (speedup), 400ms."""
    options = options or PlanOptions()
    if options.budget:
        return f"b{options.budget}"
    if options.flops_ratio:
        return f"x{options.flops_ratio:g}"
    return f"s{options.speedup:g}" if options.speedup else f"{options.latency_ms:g}ms"


def solve(
    bench: Workbench, sensitivity: SensitivityMap | None, profile: ProfileOptions, options: PlanOptions | None,
    bundle: BundleOptions = BundleOptions(), engines: EngineOptions = EngineOptions(), map: Path | None = None,
) -> SolvedPlan:  # fmt: skip
    """Profile unless a map is given or none is needed, and plan. bundle, engines: what latencies are measured of. map:
    what --map said."""
    options = options or PlanOptions()
    check_budget(options, bench.sampler.steps)
    if options.speedup or options.latency_ms:
        check_can_time(bundle.backend, options.latency_batch, engines)
    measured = sensitivity
    if map is not None and str(map) == UNIFORM:
        measured = bench.uniform_map()
    elif measured is None and needs_map(options.planner):
        measured = bench.profile(profile)
    return make_plan_for(bench, measured, options, profile, bundle, engines)
