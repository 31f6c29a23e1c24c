"""soda-export build"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from soda_runtime.manifest import EmbeddingPort, HintPort, LabelPort, Manifest

from ..compile.options import EngineOptions
from ..models.request import ModelRequest
from ..options import BundleOptions, ProfileOptions, SamplerRequest
from ..plan.solve import PlanOptions
from ..policy.options import PolicyOptions
from ..report.describe import megabytes
from .terminal import print_json, print_table, progress_bar, say, start_logging


def build(
    *,
    model: Annotated[ModelRequest, Parameter(name="*", group="Model")],
    map: Path | None = None,
    plan: tuple[Path, ...] = (),
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

        soda-export build --model pixart --budget 8 --size 512x512 --size 512x768 --size 768x512

    Parameters
    ----------
    map
        Sensitivity map of `soda-export profile`, or `uniform` to plan without one; profiles if not given, where the
        planner reads a map.
    plan
        Plan to build, made by `soda-export plan`, by hand or by another planner (docs/PLAN.md); needs no --budget.
        With --fit-sampler always the sampler is fitted to it. Of several sizes: one for all; one for each --size, in
        the same order; or 512x768=FILE for a size, besides one for all others. [default: that of the first size,
        carried over to the others]
    json
        Print the result as JSON.
    """
    from ..api.make import make_bundle  # with torch, which help pages do without

    start_logging()
    with progress_bar() as progress:
        made = make_bundle(model, progress, map, plan, sampler, profiling, planning, bundle, engines, policy)
    built, decides = made.built, made.policy
    table = built.table
    result = {
        "bundle": str(built.out), "anchors": built.plan.anchors, "flops_ratio": table.flops_ratio,
        "backend": made.manifest.backend, "engines": table.num_engines, "arena_bytes": table.arena.bytes,
        "reused_stages": built.reused,
    }  # fmt: skip
    if decides is not None:
        result |= {"policy": decides.name, "calls": decides.calls}
    if len(made.sizes) > 1:
        result |= {"sizes": made.sizes}
    if json:
        print_json(result)
        return
    print_table(
        str(built.out),
        [
            *([("sizes", ", ".join(made.sizes))] if len(made.sizes) > 1 else []),
            ("anchors", f"{len(built.plan.anchors)} of {table.sampler.steps} steps"),
            ("FLOPs ratio", f"{table.flops_ratio:.3f}"),
            ("engines", f"{table.num_engines} for {made.manifest.backend}"),
            ("cache arena", f"{megabytes(table.arena.bytes)} a sample"),
            *([("policy", f"{decides.name}, {decides.calls:.1f} model calls on average")] if decides else []),
        ],
    )
    say(f"try it: soda-export run {shlex.quote(str(built.out))} {_example(made.manifest, made.prompts)}")


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
