"""Play a bundle with and without acceleration: one picture of both, and the figures that matter.

    python scripts/demo.py engines/digits-b17-ort --out out/demo.png
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from soda_runtime import Session
from soda_runtime.manifest import LabelPort, RequestPort

from soda_export.bench import BenchOptions, bench_bundle
from soda_export.eval.scenes import held_out_prompts
from soda_export.report.images import save_comparison


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--out", type=Path, default=Path("out/demo.png"))
    parser.add_argument("--samples", type=int, default=40)
    args = parser.parse_args()
    session = Session.open(args.bundle)
    request = _request(session.bundle.manifest.ports, args.samples)
    samples = {}
    for accelerated, title in (
        (False, "everything computed"), (True, f"accelerated, FLOPs / {session.bundle.manifest.flops_ratio:.2f}")
    ):  # fmt: skip
        session.generate(**request, seed=0, accelerated=accelerated)
        samples[title] = session.images()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_comparison(samples, args.out)
    result = bench_bundle(args.bundle, BenchOptions(batch=8, rounds=5), lambda *_: None)
    print(f"picture      {args.out}")
    before, after = 1e3 * result.baseline_latency_s, 1e3 * result.latency_s
    print(f"speedup      {result.speedup:.2f}x ({before:.0f} -> {after:.0f} ms, batch {result.batch})")
    print(f"FLOPs ratio  {result.flops_ratio:.2f}x")
    error = result.error
    unit = "pixels in -1..1" if session.bundle.manifest.model.output == "pixels" else "latents"
    print(f"error        RMSE {error.rmse:.4f} on {unit} ({100 * error.relative:.1f} % relative)")


def _request(ports: tuple[RequestPort, ...], samples: int) -> dict[str, Any]:
    """Classes in turn, or for a text model captions of its world of coloured shapes."""
    for port in ports:
        if isinstance(port, LabelPort):
            return {"labels": [i % port.num_classes for i in range(samples)]}
    return {"prompt": [scene.caption for scene in held_out_prompts(samples)]}


if __name__ == "__main__":
    main()
