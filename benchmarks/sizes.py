"""One plan for several sizes: its error at each, beside that of a plan profiled there; and what the bundle shares.

    python benchmarks/sizes.py shapes --out docs/results/sizes-shapes.json

Every size is profiled and planned (SODA, --budget), twice: with the noise that profiling has by default, and with other
noise. The first size's plan is carried over to the others. Errors are of latents against everything computed, eagerly,
on held-out prompts and noise. The ratio of carried to own says what a carried plan costs, the ratio of the two
plans of one size how much that depends on what was profiled.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import cyclopts
import msgspec
import numpy as np
from built_in import open_bench
from cyclopts import Parameter
from records import write_record
from soda_runtime.checks import open_manifest

from soda_export.cli.inspect_sizes import inspect_sizes_of
from soda_export.eval.metrics import Values, rmse, rmse_ratio, sample_errors
from soda_export.eval.sample import ModelSamples, SampleSource, batches
from soda_export.lower.lower import lower_plan
from soda_export.models.load import ModelRequest
from soda_export.options import ProfileOptions
from soda_export.plan.plan import Plan
from soda_export.plan.solve import PlanOptions, solve_plan
from soda_export.workbench.assemble import assemble_bundle
from soda_export.workbench.pipeline import Workbench
from soda_export.workbench.stages import SHELF

SIZES = ("64x64", "48x64", "64x96")
FIRST_SEED, OTHER_SEED = 3_000_000, 7


def main(
    model: str, /, *, size: Annotated[tuple[str, ...], Parameter(negative=())] = SIZES, budget: int = 8,
    profile_samples: int = 32, samples: int = 64, batch: int = 16, out: Path | None = None,
) -> None:  # fmt: skip
    """Profile, plan, measure and build."""
    benches = [open_bench(ModelRequest(model, size=(each,)), SHELF / ".work") for each in size]
    own = [_plan(bench, budget, profile_samples, ProfileOptions.seed) for bench in benches]
    again = [_plan(bench, budget, profile_samples, OTHER_SEED) for bench in benches]
    carried = [bench.carried(own[0], benches[0]) for bench in benches]
    seeds = range(FIRST_SEED, FIRST_SEED + samples)
    rows = []
    for name, bench, *plans in zip(size, benches, own, again, carried, strict=True):
        row = {"size": name, **_errors(bench, dict(zip(("own", "again", "carried"), plans, strict=True)), seeds, batch)}
        print(json.dumps(row), flush=True)
        rows.append(row)
    folder = SHELF / f"{model}-sizes-ort"
    assemble_bundle(list(zip(benches, carried, strict=True)), "ort", folder)
    manifest = open_manifest(folder)
    shared = inspect_sizes_of(folder, manifest)
    result = {
        "model": model, "samples": samples, "profile_samples": profile_samples, "budget": budget, "errors": rows,
        "weights_bytes": {name: manifest.files[name].bytes for name in manifest.weights},
        "bundle_bytes": sum(entry.bytes for entry in manifest.files.values()), "sizes": shared,
    }  # fmt: skip
    write_record(result, out, default=list)


def _errors(bench: Workbench, plans: dict[str, Plan], seeds: range, batch: int) -> dict[str, object]:
    """RMSE of every plan, and the ratios of the other ones' to that of `own`, over the same samples."""
    draw = ModelSamples(bench)

    def latents(source: SampleSource) -> np.ndarray:
        return np.concatenate([source.draw(part).latents for part in batches(seeds, batch)])

    full = latents(draw.of_reference(seeds, batch, lambda *_: None))
    found: dict[str, object] = {}
    errors: dict[str, Values] = {}
    for kind, plan in plans.items():
        table = lower_plan(plan, bench.loaded.spec)
        errors[kind] = sample_errors(latents(draw.of_table(table)), full)
        found[kind] = {"rmse": msgspec.to_builtins(rmse(errors[kind])), "flops_ratio": table.flops_ratio}
    ratios = {kind: rmse_ratio(errors[kind], errors["own"]) for kind in plans if kind != "own"}
    return found | {f"{kind}_to_own": msgspec.to_builtins(ratio) for kind, ratio in ratios.items()}


def _plan(bench: Workbench, budget: int, samples: int, seed: int) -> Plan:
    sensitivity = bench.profile(ProfileOptions(samples=samples, seed=seed))
    return solve_plan(sensitivity, bench.loaded.spec, PlanOptions(planner="soda", budget=budget)).plan


if __name__ == "__main__":
    cyclopts.run(main)
