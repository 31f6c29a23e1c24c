"""Play a bundle with and without acceleration: one picture of both, and the figures that matter.

    python scripts/demo.py engines/digits-b17-ort --out out/demo.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from soda_runtime import Session

from soda_export.bench import BenchOptions, bench_bundle
from soda_export.report.images import save_comparison


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--out", type=Path, default=Path("out/demo.png"))
    parser.add_argument("--samples", type=int, default=40)
    args = parser.parse_args()
    session = Session.open(args.bundle)
    classes = session.bundle.manifest.model.num_classes
    labels = [i % classes for i in range(args.samples)]
    samples = {
        "everything computed": session.generate(labels, seed=0, accelerated=False),
        f"accelerated, FLOPs / {session.bundle.manifest.flops_ratio:.2f}": session.generate(labels, seed=0),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_comparison(samples, args.out)
    result = bench_bundle(args.bundle, BenchOptions(batch=8, rounds=5), lambda *_: None)
    print(f"picture      {args.out}")
    before, after = 1e3 * result.baseline_latency_s, 1e3 * result.latency_s
    print(f"speedup      {result.speedup:.2f}x ({before:.0f} -> {after:.0f} ms, batch {result.batch})")
    print(f"FLOPs ratio  {result.flops_ratio:.2f}x")
    error = result.error
    print(f"error        RMSE {error.rmse:.4f} on pixels in -1..1 ({100 * error.relative:.1f} % relative)")


if __name__ == "__main__":
    main()
