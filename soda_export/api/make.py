"""From everything that a user may ask for to a bundle: what `soda-export build` and `build()` do."""

from __future__ import annotations

import logging
from collections.abc import Sequence
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
from ..search.planning import fit_plan, make_policy
from ..workbench.assemble import Built, assemble_bundle
from ..workbench.pipeline import Progress, Workbench
from ..workbench.place import check_place
from ..workbench.stages import SHELF
from .planning import budget_name, given_map, given_plan, has_budget, open_workbench, solve

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

    plan: none, one for all sizes, or one for each in their order.
    """
    requests = model.by_size()
    if plan and (map is not None or not _fits_alone(planning)):
        raise UsageError(
            "--plan is a finished plan: leave out --map, --budget and the other planning options but --fit-sampler "
            "always and --plan-samples"
        )
    check_backend(bundle.backend, engines, bundle.precision)
    if bundle.out is not None:
        check_place(bundle.out)
    _check_sizes(requests, plan, policy)
    sensitivity, finished = given_map(map), given_plan(plan[0] if plan else None)
    parts = DEFAULT_PARTS if "text-encoder" in bundle.without else (*DEFAULT_PARTS, *TEXT_PARTS)
    bench = open_workbench(requests[0], sampler, progress, finished or sensitivity, parts)
    bench.components.check(bundle.without)
    policy.check(bench.sampler.steps)
    if policy.policy is not None and bundle.inpainting:
        raise UsageError("--policy: a bundle that inpaints follows its schedule; leave out one of the two")
    decides = None if policy.policy is None else make_policy(bench, policy, profiling)
    if decides is not None and not plan and not has_budget(planning):
        planning = replace(planning or PlanOptions(), planner="skip-fitted", budget=max(2, round(decides.calls)))
    if bundle.backend == AUTO:
        choice = choose_backend(bench, bundle)
        log.info("backend: %s (%s)", choice.backend, choice.why)
        bundle = replace(bundle, backend=choice.backend)
    if plan:
        chosen = _finished(bench, plan[0], requests[1:], planning, profiling)
    else:
        chosen = solve(bench, sensitivity, profiling, planning, bundle, engines, map).plan
    sizes = [(bench, chosen)]
    for number, request in enumerate(requests[1:], 1):
        other = open_workbench(request, sampler, progress, chosen, parts)
        if len(plan) > 1:
            sizes.append((other, _finished(other, plan[number], requests[:1], planning, profiling)))
        else:
            sizes.append((other, _fitted(other, other.carried(chosen, bench), planning, profiling)))
    out = bundle.out or SHELF / _name(bench, plan, planning, policy, bundle)
    built = assemble_bundle(sizes, bundle.backend, out, bundle, engines, decides)
    manifest = open_manifest(built.out)
    prompts = bench.calibration(profiling).prompts if manifest.tokenizers else ()
    names = tuple("{}x{}".format(*each.loaded.size) for each, _ in sizes)
    return Made(built, manifest, decides, tuple(prompts), names)


def _check_sizes(requests: Sequence[ModelRequest], plan: tuple[Path, ...], policy: PolicyOptions) -> None:
    if len(plan) > 1 and len(plan) != len(requests):
        raise UsageError(f"--plan: {len(plan)} plans for {len(requests)} sizes; give one for all, or one for each")
    if len(requests) > 1 and policy.policy is not None:
        raise UsageError("--policy: a policy is calibrated at one size; give one --size, or leave it out")


def _finished(
    bench: Workbench, path: Path, others: Sequence[ModelRequest], planning: PlanOptions | None,
    profiling: ProfileOptions,
) -> Plan:  # fmt: skip
    """The plan of --plan, fitted where that was asked for. others: sizes whose plans are taken, too."""
    hashes = [load_model(request).spec.hash for request in others]
    return _fitted(bench, bench.load_plan(path, hashes), planning, profiling)


def _fitted(bench: Workbench, plan: Plan, planning: PlanOptions | None, profiling: ProfileOptions) -> Plan:
    if planning is not None and planning.fit_sampler == "always":
        return fit_plan(bench, plan, planning, profiling)
    return plan


def _name(
    bench: Workbench, plan: tuple[Path, ...], planning: PlanOptions | None, policy: PolicyOptions,
    bundle: BundleOptions,
) -> str:  # fmt: skip
    """Of the folder on the shelf."""
    kind = plan[0].name.removesuffix(".json").removesuffix(".plan") if plan else budget_name(planning)
    kind = kind if policy.policy is None else f"{policy.policy}-{kind}"
    baked = bench.loaded.lora.names if bench.loaded.lora is not None else ()
    return "-".join([bench.loaded.spec.name, *baked, kind, bundle.backend])


def _fits_alone(planning: PlanOptions | None) -> bool:
    """Whether no more is asked of planning than to fit the sampler to a plan that is there."""
    if planning is None:
        return True
    fitting = PlanOptions(fit_sampler=planning.fit_sampler, plan_samples=planning.plan_samples)
    return planning == fitting and planning.fit_sampler != "best"
