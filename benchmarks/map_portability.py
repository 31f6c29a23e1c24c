"""What is lost when a map measured at one number of steps plans for another, on a built-in model.

    python benchmarks/map_portability.py digits --measured 50 --steps 25,100

Prints JSON: for each number of steps, the rank correlation of the resampled with the native map within each interval,
and the RMSE of SODA's plans from either, on samples that neither saw.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from built_in import open_bench

from soda_export.models.load import load_model
from soda_export.options import ProfileOptions, SamplerRequest
from soda_export.plan.planners import PLANNERS
from soda_export.plan.problem import Problem, Target
from soda_export.plan.sensitivity import SensitivityMap, half_agreement
from soda_export.search.trial import Trials
from soda_export.workbench.pipeline import Workbench


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--measured", type=int, default=50)
    parser.add_argument("--steps", default="25,100")
    parser.add_argument("--flops-ratio", type=float, default=2.2)
    parser.add_argument("--samples", type=int, default=32, help="of the profile and of the measurement")
    args = parser.parse_args()
    loaded, profile = load_model(args.model), ProfileOptions(samples=args.samples)

    def bench_at(steps: int) -> Workbench:
        return open_bench(loaded, Path(scratch), SamplerRequest(steps=steps))

    with tempfile.TemporaryDirectory() as scratch:
        source = bench_at(args.measured).profile(profile)
        results = []
        for steps in (int(word) for word in args.steps.split(",")):
            bench = bench_at(steps)
            native, ported = bench.profile(profile), bench.fit_map(source)
            own = [k for k in range(len(loaded.spec.sites)) if k != loaded.spec.stack]
            errors = [np.nan_to_num(m.reuse_error[:, own].astype(np.float64)) for m in (native, ported)]
            agreement = half_agreement(*errors)
            trials = Trials(
                bench.eager, bench.sampler, bench.identity, bench.options.guidance,
                bench.calibration(profile).conditions(), range(args.samples),
            )  # fmt: skip
            maps = {"native": native, "ported": ported}
            found = {name: rmse(bench, each, trials, args.flops_ratio) for name, each in maps.items()}
            results.append({
                "steps": steps, "measured_at": args.measured, "flops_ratio": args.flops_ratio,
                "rank_correlation_by_interval": [None if np.isnan(r) else round(float(r), 3) for r in agreement],
                **{f"rmse_{name}": value for name, value in found.items()},
            })  # fmt: skip
    print(json.dumps(results, indent=1))


def rmse(bench: Workbench, sensitivity: SensitivityMap, trials: Trials, ratio: float) -> float:
    """Of SODA's plan from this map."""
    spec, options = bench.loaded.spec, bench.options
    problem = Problem(spec, options.sampler, options.steps, options.guidance, sensitivity)
    return trials.rmse(PLANNERS["soda"](problem, Target(flops_ratio=ratio)))


if __name__ == "__main__":
    main()
