"""From everything that a user may ask for to a bundle: what `soda-export build` and `build()` do."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from soda_runtime.checks import open_manifest
from soda_runtime.manifest import Manifest

from ..bench.fastest import choose_backend
from ..compile import AUTO, check_backend
from ..compile.options import EngineOptions
from ..errors import UsageError
from ..models.load import DEFAULT_PARTS, TEXT_PARTS, load_model
from ..models.request import ModelRequest
from ..options import BundleOptions, ProfileOptions, SamplerRequest
from ..plan.plan import Plan
from ..plan.solve import PlanOptions
from ..policy.adaptive import AdaptivePolicy
from ..policy.options import PolicyOptions
from ..search.measuring import fit_plan, make_policy
from ..workbench.assemble import Built, assemble_bundle
from ..workbench.pipeline import Progress, Workbench
from ..workbench.place import check_place
from ..workbench.stages import SHELF
from .planning import budget_name, given_map, given_plan, has_budget, open_workbench, solve
from .plans import assign_plans

log = logging.getLogger("soda_export.api")


@dataclass(frozen=True)
class Made:
    """A bundle and how it came about. policy: where its runs decide. prompts: that it was calibrated with. sizes: in
    pixels, `512x768`."""

    built: Built
    manifest: Manifest
    policy: AdaptivePolicy | None
    prompts: tuple[str, ...]
    sizes: tuple[str, ...]


def make_bundle(
    model: ModelRequest, progress: Progress, map: Path | None = None, plan: tuple[Path, ...] = (),
    sampler: SamplerRequest = SamplerRequest(), profiling: ProfileOptions = ProfileOptions(),
    planning: PlanOptions | None = None, bundle: BundleOptions = BundleOptions(),
    engines: EngineOptions = EngineOptions(), policy: PolicyOptions = PolicyOptions(),
) -> Made:  # fmt: skip
    """Profile, plan, lower, export, compile, pack. Raises SodaError; for contradictions before anything is done.

    plan: as --plan gives them (plans.py).
    """
    requests = model.by_size()
    own = assign_plans(plan, requests)
    if plan and (map is not None or not _fits_alone(planning)):
        raise UsageError(
            "--plan is a finished plan: leave out --map, --budget and the other planning options but --fit-sampler "
            "always and --plan-samples"
        )
    check_backend(bundle.backend, engines, bundle.precision)
    if bundle.out is not None:
        check_place(bundle.out)
    sensitivity, finished = given_map(map), given_plan(own[0])
    parts = DEFAULT_PARTS if "text-encoder" in bundle.without else (*DEFAULT_PARTS, *TEXT_PARTS)
    bench = open_workbench(requests[0], sampler, progress, finished or sensitivity, parts)
    bench.components.check(bundle.without)
    policy.check(bench.sampler.steps)
    if policy.policy is not None and bundle.inpainting:
        raise UsageError("--policy: a bundle that inpaints follows its schedule; leave out one of the two")
    decides = None if policy.policy is None else make_policy(bench, policy, profiling)
    policies = [] if decides is None else [decides]
    if decides is not None and not plan and not has_budget(planning):
        planning = replace(planning or PlanOptions(), planner="skip-fitted", budget=max(2, round(decides.calls)))
    if bundle.backend == AUTO:
        choice = choose_backend(bench, bundle)
        log.info("backend: %s (%s)", choice.backend, choice.why)
        bundle = replace(bundle, backend=choice.backend)
    hashes = [load_model(request).spec.hash for request in requests] if plan and len(requests) > 1 else []
    if own[0] is not None:
        chosen = _fitted(bench, bench.load_plan(own[0], hashes), planning, profiling)
    else:
        chosen = solve(bench, sensitivity, profiling, planning, bundle, engines, map).plan
    sizes = [(bench, chosen)]
    for request, path in zip(requests[1:], own[1:], strict=True):
        other = open_workbench(request, sampler, progress, chosen, parts)
        policies += [] if decides is None else [make_policy(other, policy, profiling)]
        taken = other.carried(chosen, bench) if path is None else other.load_plan(path, hashes)
        sizes.append((other, _fitted(other, taken, planning, profiling)))
    out = bundle.out or SHELF / _name(bench, own[0], planning, policy, bundle)
    built = assemble_bundle(sizes, bundle.backend, out, bundle, engines, policies)
    manifest = open_manifest(built.out)
    prompts = bench.calibration(profiling).prompts if manifest.tokenizers else ()
    names = tuple("{}x{}".format(*each.loaded.size) for each, _ in sizes)
    return Made(built, manifest, decides, tuple(prompts), names)


def _fitted(bench: Workbench, plan: Plan, planning: PlanOptions | None, profiling: ProfileOptions) -> Plan:
    if planning is not None and planning.fit_sampler == "always":
        return fit_plan(bench, plan, planning, profiling)
    return plan


def _name(
    bench: Workbench, plan: Path | None, planning: PlanOptions | None, policy: PolicyOptions,
    bundle: BundleOptions,
) -> str:  # fmt: skip
    """Of the folder on the shelf."""
    kind = plan.name.removesuffix(".json").removesuffix(".plan") if plan else budget_name(planning)
    kind = kind if policy.policy is None else f"{policy.policy}-{kind}"
    baked = bench.loaded.lora.names if bench.loaded.lora is not None else ()
    return "-".join([bench.loaded.spec.name, *baked, kind, bundle.backend])


def _fits_alone(planning: PlanOptions | None) -> bool:
    """Whether no more is asked of planning than to fit the sampler to a plan that is there."""
    if planning is None:
        return True
    fitting = PlanOptions(fit_sampler=planning.fit_sampler, plan_samples=planning.plan_samples)
    return planning == fitting and planning.fit_sampler != "best"
