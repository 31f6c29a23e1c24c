"""One plan for several sizes: its error at each, beside that of a plan profiled there; and what the bundle shares.

    python benchmarks/sizes.py shapes --out docs/results/sizes-shapes.json

Every size is profiled and planned (SODA, --budget); the first size's plan is carried over to the others. Errors are of
latents against everything computed, eagerly, on held-out prompts and noise.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import cyclopts
import numpy as np
from cyclopts import Parameter
from records import write_record
from soda_runtime.checks import open_manifest

from soda_export.cli.inspect_sizes import inspect_sizes_of
from soda_export.eval.sample import ModelSamples, batches
from soda_export.lower.lower import lower_plan
from soda_export.models.load import ModelRequest, load_model
from soda_export.options import ProfileOptions, SamplerRequest, defaults_for
from soda_export.plan.plan import Plan
from soda_export.plan.solve import PlanOptions, solve_plan
from soda_export.workbench.assemble import assemble_bundle
from soda_export.workbench.pipeline import Workbench
from soda_export.workbench.stages import SHELF, StageStore

SIZES = ("64x64", "48x64", "64x96")
FIRST_SEED = 3_000_000


def main(
    model: str, /, *, size: Annotated[tuple[str, ...], Parameter(negative=())] = SIZES, budget: int = 8,
    profile_samples: int = 4, samples: int = 16, batch: int = 8, out: Path | None = None,
) -> None:  # fmt: skip
    """Profile, plan, measure and build."""
    store = StageStore(SHELF / ".work")
    benches = []
    for each in size:
        loaded = load_model(ModelRequest(model, size=(each,)))
        options = SamplerRequest().resolve(*defaults_for(loaded))
        benches.append(Workbench(loaded, options, store, lambda *_: None))
    own = [_plan(bench, budget, profile_samples) for bench in benches]
    carried = [bench.carried(own[0], benches[0]) for bench in benches]
    rows = []
    for name, bench, planned, taken in zip(size, benches, own, carried, strict=True):
        draw = ModelSamples(bench)
        seeds = range(FIRST_SEED, FIRST_SEED + samples)
        full = np.concatenate([
            draw.of_reference(seeds, batch, lambda *_: None).draw(part).latents for part in batches(seeds, batch)
        ])
        row: dict[str, object] = {"size": name}
        for kind, plan in (("own", planned), ("carried", taken)):
            table = lower_plan(plan, bench.loaded.spec)
            latents = [draw.of_table(table).draw(part).latents for part in batches(seeds, batch)]
            each = np.sqrt(np.mean((np.concatenate(latents) - full) ** 2, axis=(1, 2, 3)))
            row[kind] = {
                "rmse": float(np.sqrt(np.mean(each**2))), "median": float(np.median(each)),
                "flops_ratio": table.flops_ratio,
            }  # fmt: skip
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


def _plan(bench: Workbench, budget: int, samples: int) -> Plan:
    sensitivity = bench.profile(ProfileOptions(samples=samples))
    return solve_plan(sensitivity, bench.loaded.spec, PlanOptions(planner="soda", budget=budget)).plan


if __name__ == "__main__":
    cyclopts.run(main)
