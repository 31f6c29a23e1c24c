"""Does the FLOPs ratio become the latency ratio? A DiT of XL width, random weights, on the CPU.

    python benchmarks/realization.py --backend openvino --precision bf16 --out docs/results/realization-openvino.json

Width 1152, 256 tokens, guidance on. The plan: half of the steps are anchors; half of the others prune (attention
reused, feed-forward keeps `--keep` of its tokens), the rest reuse everything. Or that of `--plan FILE`, made for any
model at any number of steps, its steps and sites stretched over this one's. Time is from request to latents, prepare
included; FLOPs are those of the steps done, in the papers' convention. `gemm_ceiling`: an all-compute step's time over
that of its FLOPs at the rate of torch's own products at these shapes.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import msgspec
from records import write_record
from stretch import stretched
from xl_model import save_random_dit

from soda_export.bench import BenchOptions, bench_bundle
from soda_export.bench.doctor import describe_machine
from soda_export.compile import library_version
from soda_export.models.flops import full_step_flops
from soda_export.models.identity import SamplerIdentity, identify
from soda_export.models.spec import ModelSpec
from soda_export.options import BundleOptions, SamplerOptions
from soda_export.plan.plan import Plan, read_plan
from soda_export.plan.schedule import Schedule, cached_work
from soda_export.workbench.pipeline import Workbench
from soda_export.workbench.stages import StageStore

_PLACES = ("out", "bundle")


def half_anchors(spec: ModelSpec, steps: int, keep: int) -> Schedule:
    """Anchors at even steps; at odd ones everything reused, and at every other of them feed-forwards pruned."""
    work = Schedule.full(spec, steps).work
    work[1::2] = cached_work(spec)
    work[1::4, list(spec.kinds["ff"])] = keep
    return Schedule(work)


def gemm_rate(rows: int, width: int, precision: str) -> float:
    """FLOP a second of torch's products at a block's four shapes, weighted by their FLOPs."""
    import torch

    dtype, spent, done = (torch.float32 if precision == "fp32" else torch.bfloat16), 0.0, 0
    for inner, outer in ((width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)):
        x, weight = torch.randn(rows, inner, dtype=dtype), torch.randn(outer, inner, dtype=dtype)
        times = []
        for _ in range(12):
            started = time.perf_counter()
            torch.nn.functional.linear(x, weight)
            times.append(time.perf_counter() - started)
        spent += statistics.median(times[2:])
        done += 2 * rows * inner * outer
    return done / spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--keep", type=int, default=64, help="tokens of 256 that pruned modules keep (default 64)")
    parser.add_argument("--plan", type=Path, help="take the decisions of this plan instead")
    parser.add_argument("--backend", default="ort")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--weights", default="", help="prepacked or shared")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bundle", type=Path, help="keep the bundle there, for trace_speed.py (a new folder)")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "dit-xl-width"
        save_random_dit(model, args.layers)
        options = SamplerOptions("ddim", args.steps, 0.0, 1.5)
        bench = Workbench(str(model), options, StageStore(Path(scratch) / "work"), lambda *_: None)
        spec, rows = bench.loaded.spec, bench.rows
        schedule = (
            stretched(read_plan(args.plan), spec, args.steps) if args.plan
            else half_anchors(spec, args.steps, args.keep)
        )  # fmt: skip
        plan = Plan(identify(spec), SamplerIdentity("ddim", args.steps), 1.5, schedule)
        place = args.bundle or Path(scratch) / "bundle"
        out = bench.build(plan, args.backend, place, BundleOptions(precision=args.precision)).out
        del bench
        result = bench_bundle(
            out, BenchOptions(batch=args.batch, rounds=args.rounds, weights=args.weights),
            lambda done, total: print(f"{done}/{total}", end="\r", file=sys.stderr),
        )  # fmt: skip
    tokens, width = spec.sites[spec.kinds["ff"][0]].outputs[0]
    rate = gemm_rate(args.batch * rows * tokens, width, args.precision)
    record = {
        "settings": {n: str(v) if isinstance(v, Path) else v for n, v in vars(args).items() if n not in _PLACES},
        "machine": msgspec.to_builtins(describe_machine()),
        "versions": {"python": platform.python_version(), args.backend: library_version(args.backend)},
        "gemm_flop_per_s": rate,
        "gemm_ceiling": result.baseline_step.median / (args.batch * full_step_flops(spec, rows) / rate),
        "result": {**msgspec.to_builtins(result), "bundle": "random weights"},
    }  # fmt: skip
    write_record(record, args.out)


if __name__ == "__main__":
    main()
