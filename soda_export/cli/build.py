"""soda-export build"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from soda_runtime.checks import open_manifest
from soda_runtime.manifest import EmbeddingPort, HintPort, LabelPort, Manifest

from ..build.place import check_place
from ..build.stages import SHELF
from ..compile import AUTO, check_backend
from ..compile.options import EngineOptions
from ..errors import UsageError
from ..models.hub import DEFAULT_PARTS, TEXT_PARTS
from ..models.request import ModelRequest
from ..options import BundleOptions, ProfileOptions, SamplerRequest
from ..plan.solve import PlanOptions
from ..policy.options import PolicyOptions
from .terminal import megabytes, print_json, print_table, progress_bar, say, start_logging

log = logging.getLogger("soda_export.build")


def build(
    *,
    model: Annotated[ModelRequest, Parameter(name="*", group="Model")],
    map: Path | None = None,
    plan: Path | None = None,
    sampler: Annotated[SamplerRequest, Parameter(name="*", group="Sampling")] = SamplerRequest(),
    profiling: Annotated[ProfileOptions, Parameter(name="*", group="Profiling")] = ProfileOptions(),
    planning: Annotated[PlanOptions | None, Parameter(name="*", group="Planning")] = None,
    bundle: Annotated[BundleOptions, Parameter(name="*", group="Bundle")] = BundleOptions(),
    engines: Annotated[EngineOptions, Parameter(name="*", group="Engines")] = EngineOptions(),
    policy: Annotated[PolicyOptions, Parameter(name="*", group="Policy")] = PolicyOptions(),
    json: bool = False,
) -> None:
    """Build a bundle: profile, plan, lower, export, compile, pack.

    Every stage's output is kept under engines/.work; a build that was stopped goes on where it was.

    Examples:

        soda-export build --model digits --budget 17

        soda-export build --model pixart --budget 8 --without text-encoder

        soda-export build --model path/to/diffusers-folder --budget 18 --flops-ratio 2.4

        soda-export build --model digits --plan my-plan.json --out engines/mine

        soda-export build --model flux-dev --random-weights 0 --flops-ratio 2 --planner soda --map uniform

        soda-export build --model scenes --policy misfit --calls 14

    Parameters
    ----------
    map
        Sensitivity map of `soda-export profile`, or `uniform` to plan without one; profiles if not given, where the
        planner reads a map.
    plan
        Plan to build, made by `soda-export plan`, by hand or by another planner (docs/PLAN.md); needs no --budget.
        With --fit-sampler always the sampler is fitted to it.
    json
        Print the result as JSON.
    """
    from ..bench.fastest import choose_backend  # with torch, which help pages do without
    from ..search.planning import fit_plan, make_policy
    from .planning import budget_name, given_map, given_plan, has_budget, open_workbench, solve

    start_logging()
    if plan is not None and (map is not None or not _fits_alone(planning)):
        raise UsageError(
            "--plan is a finished plan: leave out --map, --budget and the other planning options but --fit-sampler "
            "always and --plan-samples"
        )
    check_backend(bundle.backend, engines, bundle.precision)
    if bundle.out is not None:
        check_place(bundle.out)
    with progress_bar() as progress:
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
        if plan is not None:
            chosen = bench.load_plan(plan)
            if planning is not None and planning.fit_sampler == "always":
                chosen = fit_plan(bench, chosen, planning, profiling)
        else:
            chosen = solve(bench, sensitivity, profiling, planning, bundle, engines, map).plan
        kind = budget_name(planning) if plan is None else plan.name.removesuffix(".json").removesuffix(".plan")
        kind = kind if policy.policy is None else f"{policy.policy}-{kind}"
        name = f"{bench.loaded.spec.name}-{kind}-{bundle.backend}"
        built = bench.build(chosen, bundle.backend, bundle.out or SHELF / name, bundle, engines, decides)
    table = built.table
    result = {
        "bundle": str(built.out), "anchors": chosen.anchors, "flops_ratio": table.flops_ratio,
        "backend": bundle.backend, "engines": table.num_engines, "arena_bytes": table.arena.bytes,
        "reused_stages": built.reused,
    }  # fmt: skip
    if decides is not None:
        result |= {"policy": decides.name, "calls": decides.calls}
    if json:
        print_json(result)
        return
    print_table(
        str(built.out),
        [
            ("anchors", f"{len(chosen.anchors)} of {table.sampler.steps} steps"),
            ("FLOPs ratio", f"{table.flops_ratio:.3f}"),
            ("engines", f"{table.num_engines} for {bundle.backend}"),
            ("cache arena", f"{megabytes(table.arena.bytes)} a sample"),
            *([("policy", f"{decides.name}, {decides.calls:.1f} model calls on average")] if decides else []),
        ],
    )
    manifest = open_manifest(built.out)
    prompts = bench.calibration(profiling).prompts if manifest.tokenizers else ()
    say(f"try it: soda-export run {shlex.quote(str(built.out))} {_example(manifest, prompts)}")


def _fits_alone(planning: PlanOptions | None) -> bool:
    """Whether no more is asked of planning than to fit the sampler to a plan that is there."""
    if planning is None:
        return True
    fitting = PlanOptions(fit_sampler=planning.fit_sampler, plan_samples=planning.plan_samples)
    return planning == fitting and planning.fit_sampler != "best"


def _example(manifest: Manifest, prompts: Sequence[str]) -> str:
    """What to try the bundle with; prompts: that it was calibrated with."""
    from .results import USUAL

    words = []
    for port in manifest.ports:
        if isinstance(port, LabelPort):
            words.append(f"--labels {','.join(str(i) for i in range(min(4, port.num_classes)))}")
        elif isinstance(port, HintPort):
            words.append(f"--input {port.name}={port.name}.{'png' if port.shape[0] in (1, 3) else 'npy'}")
    if manifest.tokenizers:
        words.append(f"--prompt {shlex.quote(prompts[0] if prompts else 'a lighthouse at dawn')}")
    elif any(isinstance(port, EmbeddingPort) for port in manifest.ports):
        words.append("--embeds embeds.safetensors")
    return " ".join([*words, f"--out {USUAL[manifest.result_kind]}"])
