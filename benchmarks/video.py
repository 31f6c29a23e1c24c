"""A video model at true size, random weights: build it, play a step with everything computed and an accelerated one.

    python benchmarks/video.py wan-1.3b --size 480x832 --frames 17 --out docs/results/video-wan-1.3b.json
    python benchmarks/video.py wan-14b --size 480x832 --frames 17 --build-only --out docs/results/video-wan-14b.json

The plan has two steps: everything computed, then the sites of `--reuse` kinds reused and the rest computed. Engines are
opened before the first step is timed. `realization`: the ratio of the steps' seconds over that of their FLOPs. Without
text encoder and decoder. Build and play are processes of their own, whose peak resident bytes are given.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from big_models import machine, run
from records import write_record


def build(args: argparse.Namespace, folder: Path) -> None:
    """The bundle, and what its two steps cost."""
    from soda_export.models.load import ModelRequest, load_model
    from soda_export.models.weights import num_parameters
    from soda_export.options import BundleOptions, SamplerOptions
    from soda_export.plan.schedule import Schedule
    from soda_export.sampler import own_sampler
    from soda_export.workbench.pipeline import Workbench
    from soda_export.workbench.stages import StageStore

    size = (args.size,) if args.size else ()
    loaded = load_model(ModelRequest(args.model, random_weights=0, size=size, frames=args.frames))
    sampler = own_sampler(loaded.scheduler_config)
    guidance = loaded.family.default_guidance if args.guidance is None else args.guidance
    bench = Workbench(loaded, SamplerOptions(sampler, 2, 0.0, guidance), StageStore(folder / "work"), lambda *_: None)
    spec = bench.loaded.spec
    unknown = set(args.reuse) - set(spec.kinds)
    if unknown:
        sys.exit(f"--reuse {' '.join(sorted(unknown))}: {args.model} has {', '.join(spec.kinds)}")
    work = Schedule.full(spec, 2).work
    for kind in args.reuse:
        work[1, list(spec.kinds[kind])] = 0
    schedule = Schedule(work)
    options = BundleOptions(without=("text-encoder", "decoder"), precision=args.precision)
    built = bench.build(bench.plan_of(schedule, "two steps"), args.backend, folder / "bundle", options)
    files = {path.name: path.stat().st_size for path in built.out.iterdir()}
    weights = files["weights.safetensors"]
    cost = schedule.flops_by_step(spec, bench.rows)
    (folder / "built.json").write_text(json.dumps({
        "sampler": sampler, "guidance": guidance, "latent_shape": spec.latent_shape, "rows": bench.rows,
        "sites": len(spec.sites), "parameters": num_parameters(bench.loaded.weights),
        "step_tflops": [flops / 1e12 for flops in cost], "weights_bytes": weights,
        "engines_bytes": sum(size for name, size in files.items() if name.endswith(".onnx")),
        "bundle_bytes": sum(files.values()),
    }))  # fmt: skip


def play(folder: Path) -> None:
    """Seconds of opening and of both steps."""
    from soda_runtime import Session
    from soda_runtime.request import example_request

    started = time.perf_counter()
    with Session.open(folder / "bundle") as session:
        manifest = session.bundle.manifest
        for step in manifest.steps:
            session.bundle.engine(step.program)
        session.start(**example_request(session.bundle, 1))
        seconds = [time.perf_counter() - started]
        for index in range(len(manifest.steps)):
            started = time.perf_counter()
            session.step(index)
            seconds.append(time.perf_counter() - started)
        session.latents()  # refuses what is not finite
        arena = manifest.arena.bytes
    (folder / "played.json").write_text(json.dumps({
        "open_s": seconds[0], "everything_step_s": seconds[1], "accelerated_step_s": seconds[2], "arena_bytes": arena,
    }))  # fmt: skip


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both stages as processes of their own, and what the machine did besides."""
    words = [sys.executable, __file__, *sys.argv[1:], "--folder", str(folder), "--stage"]
    before = os.getloadavg()[0]
    built = run([*words, "build"], Path.cwd())
    found = json.loads((folder / "built.json").read_text())
    ratio = found["step_tflops"][0] / found["step_tflops"][1]
    found |= {"build_s": built.seconds, "build_peak_bytes": built.peak_bytes, "flops_ratio": ratio}
    if not args.build_only:
        played = run([*words, "play"], Path.cwd())
        found |= json.loads((folder / "played.json").read_text()) | {"play_peak_bytes": played.peak_bytes}
        speedup = found["everything_step_s"] / found["accelerated_step_s"]
        found |= {"speedup": speedup, "realization": speedup / ratio}
    settings = {name: value for name, value in vars(args).items() if name not in ("out", "folder", "stage")}
    return {"settings": settings, "machine": machine(), "load_average": [before, os.getloadavg()[0]], **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--size", help="height x width in pixels")
    parser.add_argument("--frames", type=int)
    parser.add_argument("--guidance", type=float, help="1 for one row a sample")
    parser.add_argument("--reuse", nargs="+", default=["attn", "cross_attn"], metavar="KIND")
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--build-only", action="store_true", help="for models that this machine cannot play")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--stage", choices=("build", "play"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage:
        build(args, args.folder) if args.stage == "build" else play(args.folder)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_record(measure(args, Path(folder)), args.out)


if __name__ == "__main__":
    main()
