"""A model at true size, random weights: SODA's plan at a FLOPs ratio, built and played to the end.

    python benchmarks/whole_plan.py opensora --size 144x256 --frames 17 --out docs/results/whole-plan-opensora.json

`soda-export build` plans with the uniform sensitivity map (of random weights a measured one would say nothing), without
text encoder and decoder. Bundle and stages stay in `--store`; a bundle that is there is played as it is. Engines are
opened before the first run, runs by the plan and with everything computed take turns, and times are medians of
`--rounds` runs. `realization`: the ratio of the runs' seconds over that of their FLOPs. Build and play are processes of
their own, whose peak resident bytes are given.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from big_models import machine, run
from records import write_record
from soda_runtime import Session
from soda_runtime.request import example_request


def build_command(args: argparse.Namespace, bundle: Path) -> list[str]:
    """The call of soda-export; a model that is a folder keeps its weights."""
    given = {"size": args.size, "frames": args.frames, "steps": args.steps, "backend": args.backend}
    given |= {"precision": args.precision, "planner": "soda", "map": "uniform", "flops-ratio": args.flops_ratio}
    given |= {"out": bundle, "random-weights": None if Path(args.model).is_dir() else 0}
    options = [word for name, value in given.items() if value is not None for word in (f"--{name}", str(value))]
    model = str(Path(args.model).resolve()) if Path(args.model).is_dir() else args.model
    without = ("--without", "text-encoder", "--without", "decoder")
    return [sys.executable, "-m", "soda_export", "build", "--model", model, *options, *without]


def play(bundle: Path, rounds: int) -> dict[str, Any]:
    """Seconds of opening and of whole runs by turns, median and all; seconds of each step program in its place."""
    started = time.perf_counter()
    with Session.open(bundle) as session:
        manifest = session.bundle.manifest
        for step in manifest.steps:
            session.bundle.engine(step.program)
        session.bundle.engine(manifest.baseline_program)
        open_s, seconds = time.perf_counter() - started, {"plan": list[float](), "everything": list[float]()}
        by_program: dict[int, list[float]] = {}
        for _ in range(rounds):
            for name, runs in seconds.items():
                steps = list(_steps(session, name == "plan"))
                runs.append(sum(steps))
                if name == "plan":
                    for step, took in zip(manifest.steps, steps, strict=True):
                        by_program.setdefault(step.program, []).append(took)
    sizes = {path.name: path.stat().st_size for path in bundle.iterdir()}
    plan_s, everything_s = (statistics.median(runs) for runs in seconds.values())
    return {
        "flops_ratio": manifest.flops_ratio, "open_s": open_s, "runs_s": seconds, "plan_s": plan_s,
        "everything_s": everything_s, "speedup": everything_s / plan_s, "steps": len(manifest.steps),
        "program_step_s": {number: statistics.median(took) for number, took in sorted(by_program.items())},
        "arena_bytes": manifest.arena.bytes, "weights_bytes": sizes["weights.safetensors"],
        "engines_bytes": sum(size for name, size in sizes.items() if name.endswith(".onnx")),
        "bundle_bytes": sum(sizes.values()),
    }  # fmt: skip


def _steps(session: Session, accelerated: bool) -> Iterator[float]:
    """Play a run; seconds of each step."""
    session.start(**example_request(session.bundle, 1), seed=0, accelerated=accelerated)
    for index in range(len(session.bundle.manifest.steps)):
        started = time.perf_counter()
        session.step(index)
        yield time.perf_counter() - started
    session.latents()  # refuses what is not finite


def measure(args: argparse.Namespace, store: Path) -> dict[str, Any]:
    """Build where there is no bundle yet, and play."""
    store.mkdir(parents=True, exist_ok=True)
    bundle, played = store / "bundle", store / "played.json"
    before = os.getloadavg()[0]
    built = None if bundle.is_dir() else run(build_command(args, bundle), store)
    playing = run([sys.executable, __file__, *sys.argv[1:], "--play", str(bundle), "--played", str(played)], Path.cwd())
    found = json.loads(played.read_text())
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k not in _UNSAID}
    return {
        "settings": settings, "machine": machine(), "load_average": [before, os.getloadavg()[0]],
        **found, "realization": found["speedup"] / found["flops_ratio"],
        "build_s": built and built.seconds, "build_peak_bytes": built and built.peak_bytes,
        "play_peak_bytes": playing.peak_bytes,
    }  # fmt: skip


_UNSAID = ("out", "store", "play", "played")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a name of soda-export build --model, or a folder with weights")
    parser.add_argument("--size", help="height x width in pixels")
    parser.add_argument("--frames", type=int)
    parser.add_argument("--steps", type=int, help="default: the model family's")
    parser.add_argument("--flops-ratio", type=float, default=2.5)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--store", type=Path, help="default: a folder that is removed at the end")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--play", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--played", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error(f"--rounds {args.rounds}: must be at least 1")
    if args.play:
        args.played.write_text(json.dumps(play(args.play, args.rounds)))
    elif args.store:
        write_record(measure(args, args.store.resolve()), args.out)
    else:
        with tempfile.TemporaryDirectory() as folder:
            write_record(measure(args, Path(folder)), args.out)


if __name__ == "__main__":
    main()
