"""Whether timesteps that move with the schedule (BudCache, arXiv 2606.13496, its second stage) help a fitted sampler.

    python benchmarks/moved_timesteps.py shapes --flops-ratio 2 --out docs/results/moved-timesteps-shapes.json

Every other step, or as the ratio has it, calls the model (planner `skip-fitted`). Its prediction serves up to the next
call; so the timestep that the model is told moves from the step's own by a share of the way to the middle of those
steps, and the coefficients are fitted anew. Prints JSON: for each share the RMSE of the final latents on the samples of
the fit, and on samples with other prompts and noise.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from built_in import open_bench
from records import write_record

from soda_export.options import ProfileOptions
from soda_export.plan.planners import PLANNERS
from soda_export.plan.problem import Problem, Target
from soda_export.sampler import FittingSampler, SamplerTable
from soda_export.search.trial import Trials


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--flops-ratio", type=float, default=2.0)
    parser.add_argument("--shares", default="0,-0.2,0.2,0.4,0.6")
    parser.add_argument("--samples", type=int, default=16, help="of the fit, and as many others")
    parser.add_argument("--store", type=Path, default=Path("engines/.work"), help="stage store")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    bench = open_bench(args.model, args.store)
    spec, options = bench.loaded.spec, bench.options
    conditions = bench.calibration(ProfileOptions(samples=256)).conditions()
    trials = Trials(bench.eager, bench.sampler, bench.identity, options.guidance, conditions, range(1))
    seen, unseen = trials.seen(args.samples), trials.unseen(args.samples)
    problem = Problem(spec, options.sampler, options.steps, options.guidance)
    schedule = PLANNERS["skip-fitted"](problem, Target(flops_ratio=args.flops_ratio))
    renews = schedule.renews(spec, bench.rows)
    calls = [step for step, renewed in enumerate(renews) if renewed]
    rows = []
    for share in (float(word) for word in args.shares.split(",")):
        fitting = FittingSampler(moved(bench.sampler, calls, share), seen.states, renews, schedule.skips)
        seen.play(schedule, fitting)
        found = {
            name: float(np.sqrt(np.mean(some.squares(some.play(schedule, fitting.fitted)))))
            for name, some in (("rmse_seen", seen), ("rmse_unseen", unseen))
        }  # fmt: skip
        rows.append({"share": share} | {name: round(value, 5) for name, value in found.items()})
    about = {"model": args.model, "flops_ratio": args.flops_ratio, "samples": args.samples, "calls": calls}
    write_record(about | {"moved": rows}, args.out)


def moved(sampler: SamplerTable, calls: list[int], share: float) -> SamplerTable:
    """Timesteps of the calls moved by that share of the way to the middle of the steps that they serve."""
    own, steps = np.array(sampler.timesteps), np.arange(sampler.steps)
    timesteps = own.copy()
    for first, end in zip(calls, [*calls[1:], sampler.steps], strict=True):
        timesteps[first] = np.interp(first + share * (end - 1 - first) / 2, steps, own)
    return replace(sampler, timesteps=tuple(float(t) for t in timesteps))


if __name__ == "__main__":
    main()
