"""From everything that a user may ask for to a bundle: what `soda-export build` and `build()` do."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from soda_runtime.checks import open_manifest
from soda_runtime.manifest import Manifest

from ..bench.fastest import choose_backend
from ..build.pipeline import Built, Progress, Workbench
from ..build.place import check_place
from ..build.stages import SHELF
from ..compile import AUTO, check_backend
from ..compile.options import EngineOptions
from ..errors import UsageError
from ..models.load import DEFAULT_PARTS, TEXT_PARTS
from ..models.request import ModelRequest
from ..options import BundleOptions, ProfileOptions, SamplerRequest
from ..plan.plan import Plan
from ..plan.solve import PlanOptions
from ..policy.adaptive import AdaptivePolicy
from ..policy.options import PolicyOptions
from ..search.planning import fit_plan, make_policy
from .planning import budget_name, given_map, given_plan, has_budget, open_workbench, solve

log = logging.getLogger("soda_export.build")


@dataclass(frozen=True)
class Made:
    """A bundle and how it came about. policy: where its runs decide. prompts: that it was calibrated with."""

    built: Built
    manifest: Manifest
    policy: AdaptivePolicy | None
    prompts: tuple[str, ...]


def make_bundle(
    model: ModelRequest, progress: Progress, map: Path | None = None, plan: Path | None = None,
    sampler: SamplerRequest = SamplerRequest(), profiling: ProfileOptions = ProfileOptions(),
    planning: PlanOptions | None = None, bundle: BundleOptions = BundleOptions(),
    engines: EngineOptions = EngineOptions(), policy: PolicyOptions = PolicyOptions(),
) -> Made:  # fmt: skip
    """Profile, plan, lower, export, compile, pack. Raises SodaError; for contradictions before anything is done."""
    if plan is not None and (map is not None or not _fits_alone(planning)):
        raise UsageError(
            "--plan is a finished plan: leave out --map, --budget and the other planning options but --fit-sampler "
            "always and --plan-samples"
        )
    check_backend(bundle.backend, engines, bundle.precision)
    if bundle.out is not None:
        check_place(bundle.out)
    sensitivity, finished = given_map(map), given_plan(plan)
    parts = DEFAULT_PARTS if "text-encoder" in bundle.without else (*DEFAULT_PARTS, *TEXT_PARTS)
    bench = open_workbench(model, sampler, progress, finished or sensitivity, parts)
    bench.components.check(bundle.without)
    policy.check(bench.sampler.steps)
    if policy.policy is not None and bundle.inpainting:
        raise UsageError("--policy: a bundle that inpaints follows its schedule; leave out one of the two")
    decides = None if policy.policy is None else make_policy(bench, policy, profiling)
    if decides is not None and plan is None and not has_budget(planning):
        planning = replace(planning or PlanOptions(), planner="skip-fitted", budget=max(2, round(decides.calls)))
    if bundle.backend == AUTO:
        choice = choose_backend(bench, bundle)
        log.info("backend: %s (%s)", choice.backend, choice.why)
        bundle = replace(bundle, backend=choice.backend)
    if plan is None:
        chosen = solve(bench, sensitivity, profiling, planning, bundle, engines, map).plan
    else:
        chosen = _finished(bench, plan, planning, profiling)
    out = bundle.out or SHELF / _name(bench, plan, planning, policy, bundle)
    built = bench.build(chosen, bundle.backend, out, bundle, engines, decides)
    manifest = open_manifest(built.out)
    prompts = bench.calibration(profiling).prompts if manifest.tokenizers else ()
    return Made(built, manifest, decides, tuple(prompts))


def _finished(bench: Workbench, path: Path, planning: PlanOptions | None, profiling: ProfileOptions) -> Plan:
    """The plan of --plan, fitted where that was asked for."""
    plan = bench.load_plan(path)
    if planning is not None and planning.fit_sampler == "always":
        return fit_plan(bench, plan, planning, profiling)
    return plan


def _name(
    bench: Workbench, plan: Path | None, planning: PlanOptions | None, policy: PolicyOptions, bundle: BundleOptions
) -> str:
    """Of the folder on the shelf."""
    kind = budget_name(planning) if plan is None else plan.name.removesuffix(".json").removesuffix(".plan")
    kind = kind if policy.policy is None else f"{policy.policy}-{kind}"
    baked = bench.loaded.lora.names if bench.loaded.lora is not None else ()
    return "-".join([bench.loaded.spec.name, *baked, kind, bundle.backend])


def _fits_alone(planning: PlanOptions | None) -> bool:
    """Whether no more is asked of planning than to fit the sampler to a plan that is there."""
    if planning is None:
        return True
    fitting = PlanOptions(fit_sampler=planning.fit_sampler, plan_samples=planning.plan_samples)
    return planning == fitting and planning.fit_sampler != "best"
