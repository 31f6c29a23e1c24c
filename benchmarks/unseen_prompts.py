"""Whether a plan of `best` does as well on prompts that nobody calibrated on, for a built-in model that takes text.

    python benchmarks/unseen_prompts.py shapes --flops-ratios 1.9,2.5 --out docs/results/unseen-shapes.json

Prints JSON: for each FLOPs ratio the RMSE of the final latents on the prompts that the plan was found and fitted on, on
captions that neither planning nor the model's training saw, both with noise that planning did not see, their ratio with
its 95 % interval by bootstrap, and what the plan says of itself.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import msgspec
import numpy as np
from built_in import open_bench
from numpy.typing import NDArray
from records import write_record

from soda_export.eager.conditions import Conditions
from soda_export.eval.conditions import model_prompts
from soda_export.options import ProfileOptions
from soda_export.plan.plan import Plan
from soda_export.plan.solve import PlanOptions
from soda_export.search.objective import mean_squares
from soda_export.search.planning import make_plan_for
from soda_export.search.trial import Trials
from soda_export.workbench.pipeline import Workbench

_FIRST, _BATCH = 20_000, 32  # samples beyond those of planning
_RESAMPLED = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--flops-ratios", default="1.9,2.5")
    parser.add_argument("--samples", type=int, default=256, help="of each kind")
    parser.add_argument("--plan-seconds", type=float, default=60.0)
    parser.add_argument("--store", type=Path, default=Path("engines/.work"), help="stage store")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    bench = open_bench(args.model, args.store)
    calibration = bench.calibration(ProfileOptions(samples=256))
    sensitivity = bench.profile(ProfileOptions())
    made, unseen = calibration.conditions(), bench.components.encode(list(model_prompts(args.model)))
    records = []
    for ratio in (float(word) for word in args.flops_ratios.split(",")):
        asked, started = PlanOptions(flops_ratio=ratio, plan_seconds=args.plan_seconds), time.time()
        plan = make_plan_for(bench, sensitivity, asked).plan
        seconds = time.time() - started
        kinds = [errors(bench, plan, conditions, args.samples) for conditions in (made, made | unseen)]
        records.append(compare(*kinds) | {
            "flops_ratio": ratio, "planning_s": round(seconds, 1), "held_out": msgspec.to_builtins(plan.held_out),
        })  # fmt: skip
    about = {"model": args.model, "samples": args.samples, "prompts": len(calibration.prompts)}
    write_record(about | {"plan_seconds": args.plan_seconds, "ratios": records}, args.out)


def errors(bench: Workbench, plan: Plan, conditions: Conditions, samples: int) -> NDArray[np.float64]:
    """Mean squared error of each sample."""
    sampler, squares = bench.sampler.with_coefficients(plan.coefficients), []
    trials = Trials(bench.eager, bench.sampler, bench.identity, bench.options.guidance, conditions, range(1))
    for first in range(0, samples, _BATCH):
        some = trials.seen(min(_BATCH, samples - first), _FIRST + first)
        squares += mean_squares(some.play(plan.schedule, sampler) - some.states[-1][0])
    return np.array(squares)


def compare(seen: NDArray[np.float64], unseen: NDArray[np.float64]) -> dict[str, object]:
    """RMSE of both, and unseen / seen."""
    random = np.random.default_rng(0)
    drawn = [np.sqrt(random.choice(each, (_RESAMPLED, len(each))).mean(axis=1)) for each in (seen, unseen)]
    low, high = np.quantile(drawn[1] / drawn[0], (0.025, 0.975))
    rmse_seen, rmse_unseen = (float(np.sqrt(each.mean())) for each in (seen, unseen))
    return {
        "rmse_seen": round(rmse_seen, 5), "rmse_unseen": round(rmse_unseen, 5),
        "unseen_over_seen": round(rmse_unseen / rmse_seen, 3),
        "interval": [round(float(low), 3), round(float(high), 3)],
        "typical_unseen_over_seen": round(float(np.sqrt(unseen).mean() / np.sqrt(seen).mean()), 3),
    }  # fmt: skip


if __name__ == "__main__":
    main()
