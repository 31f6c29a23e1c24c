"""Realization of a bundle where other work comes and goes: accelerated and all-compute runs by turns, step by step.

    python benchmarks/realization.py --backend openvino --precision bf16 --rounds 1 --bundle BUNDLE
    python benchmarks/turns.py BUNDLE --rounds 30

`soda-export bench` plays whole generations in turn, which are seconds apart when models are large, and a shared
machine's pace may change by more than what is measured in that time. Here each step of the one follows the same step of
the other at once; which goes first changes from step to step. `programs`: what steps of a program take, as a multiple
of the all-compute steps beside them, medians of these ratios with their intervals. `speedup`: of the steps of a whole
generation, what precedes them not included.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from records import write_record
from soda_runtime import Bundle, BundleError, EngineError
from soda_runtime.request import example_request

from soda_export.bench.run import describe_conditions
from soda_export.bench.timing import speedup_interval, timing


def time_turns(bundle: Bundle, rounds: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Seconds of the steps of accelerated and of all-compute runs, [rounds, S] each, after a round that warms up."""
    steps, request = bundle.manifest.sampler.steps, example_request(bundle, 1)
    sessions = bundle.session(), bundle.session()
    seconds = np.zeros((2, rounds + 1, steps))
    for i in range(rounds + 1):
        for session, accelerated in zip(sessions, (True, False), strict=True):
            session.start(**request, seed=i, accelerated=accelerated)
        for step in range(steps):
            for which in ((0, 1), (1, 0))[(i + step) % 2]:
                started = time.perf_counter()
                sessions[which].step(step)
                sessions[which].wait()
                seconds[which, i, step] = time.perf_counter() - started
        print(f"{i}/{rounds}", end="\r", file=sys.stderr)
    return seconds[0, 1:], seconds[1, 1:]


def shares(
    fast: NDArray[np.float64], full: NDArray[np.float64], programs: Sequence[int], files: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """By a program's file, in the order of first use: its steps, and what they take of the all-compute ones. fast,
    full: seconds [rounds, S]. programs: of each step."""
    ratios, found = fast / full, {}
    for program in dict.fromkeys(programs):
        steps = [step for step, which in enumerate(programs) if which == program]
        found[files[program]] = {
            "steps": len(steps), "time_share": msgspec.to_builtins(timing(ratios[:, steps].ravel().tolist())),
        }  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="such as realization.py --bundle keeps, or any other")
    parser.add_argument("--rounds", type=int, default=30, help="generations of each kind (default 30)")
    parser.add_argument("--threads", type=int, default=0, help="0: the library's choice")
    parser.add_argument("--out", type=Path, help="write the figures there, too")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error(f"--rounds {args.rounds}: must be 1 or more")
    try:
        bundle = Bundle.open(args.bundle, threads=args.threads)
    except (BundleError, EngineError) as error:
        sys.exit(str(error))
    manifest = bundle.manifest
    fast, full = time_turns(bundle, args.rounds)
    whole, base = fast.sum(axis=1).tolist(), full.sum(axis=1).tolist()
    took, full_took = timing(whole).median, timing(base).median
    speedup = full_took / took
    record = {
        "rounds": args.rounds, "backend": manifest.backend, "precision": manifest.precision,
        "conditions": msgspec.to_builtins(describe_conditions(manifest.backend, args.threads)),
        "flops_ratio": manifest.flops_ratio, "speedup": speedup, "speedup_interval": speedup_interval(base, whole),
        "realization": speedup / manifest.flops_ratio,
        "steps_s": took, "all_compute_s": full_took,
        "programs": shares(fast, full, [step.program for step in manifest.steps], [p.file for p in manifest.programs]),
    }  # fmt: skip
    write_record(record, args.out)


if __name__ == "__main__":
    main()
