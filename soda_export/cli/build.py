"""soda-export build"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..bench.fastest import choose_backend
from ..build.pipeline import Workbench
from ..compile import AUTO, check_backend
from ..compile.options import EngineOptions
from ..errors import UsageError
from ..models.load import DEFAULT_PARTS, TEXT_PARTS, ModelRequest
from ..options import BundleOptions, ProfileOptions, SamplerRequest
from ..plan.solve import PlanOptions
from .planning import SHELF, budget_name, given_map, given_plan, open_workbench, solve
from .terminal import megabytes, print_json, print_table, progress_bar, start_logging

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

    Parameters
    ----------
    map
        Sensitivity map of `soda-export profile`, or `uniform` to plan without one; profiles if not given, where the
        planner reads a map.
    plan
        Plan to build, made by `soda-export plan`, by hand or by another planner (docs/PLAN.md); needs no --budget.
    json
        Print the result as JSON.
    """
    start_logging()
    if plan is not None and (map is not None or planning is not None):
        raise UsageError("--plan is a finished plan: leave out --map, --budget and the other planning options")
    check_backend(bundle.backend, engines)
    with progress_bar() as progress:
        sensitivity, finished = given_map(map), given_plan(plan)
        parts = DEFAULT_PARTS if "text-encoder" in bundle.without else (*DEFAULT_PARTS, *TEXT_PARTS)
        bench = open_workbench(model, sampler, progress, finished or sensitivity, parts)
        bench.components.check(bundle.without)
        if bundle.backend == AUTO:
            choice = choose_backend(bench, bundle)
            log.info("backend: %s (%s)", choice.backend, choice.why)
            bundle = replace(bundle, backend=choice.backend)
        if plan is not None:
            chosen = bench.load_plan(plan)
        else:
            chosen = solve(bench, sensitivity, profiling, planning, bundle, engines, map).plan
        kind = budget_name(planning) if plan is None else plan.name.removesuffix(".json").removesuffix(".plan")
        name = f"{bench.loaded.spec.name}-{kind}-{bundle.backend}"
        built = bench.build(chosen, bundle.backend, bundle.out or SHELF / name, bundle, engines)
    table = built.table
    result = {
        "bundle": str(built.out), "anchors": chosen.anchors, "flops_ratio": table.flops_ratio,
        "backend": bundle.backend, "engines": table.num_engines, "arena_bytes": table.arena.bytes,
        "reused_stages": built.reused,
    }  # fmt: skip
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
            ("try it", f"soda-export run {built.out} {_example(bench, bundle.without)}"),
        ],
    )


def _example(bench: Workbench, without: tuple[str, ...]) -> str:
    """What to try the bundle with."""
    out = "--out out.npy" if "decoder" in without else "--out out.png"
    if bench.loaded.spec.port("label") is not None:
        return f"--labels 0,1,2,3 {out}"
    has_text = bench.components.has_text_encoder and "text-encoder" not in without
    return f'--prompt "..." {out}' if has_text else f"--embeds embeds.safetensors {out}"
