"""Does the FLOPs ratio become the latency ratio? A DiT of XL width, random weights, on ONNX Runtime CPU.

    python benchmarks/realization.py --out docs/results/realization-ort-cpu.json

Width 1152, 8 layers, 256 tokens, guidance on. Half of the steps are anchors; half of the others prune (attention
reused, feed-forward keeps `--keep` of its tokens), the rest reuse everything. Time is from request to latents, prepare
included; FLOPs are those of the steps done, in the papers' convention.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime

from soda_export.bench import BenchOptions, bench_bundle
from soda_export.models.identity import SamplerIdentity, identify
from soda_export.options import SamplerOptions
from soda_export.pipeline import Workbench
from soda_export.plan.plan import Plan
from soda_export.plan.schedule import Schedule
from soda_export.stages import StageStore


def save_random_dit(folder: Path, layers: int) -> None:
    """A diffusers DiT folder of XL width with random weights."""
    import torch
    from diffusers import DDIMScheduler, DiTTransformer2DModel

    torch.manual_seed(0)
    model = DiTTransformer2DModel(num_layers=layers, sample_size=32, patch_size=2, in_channels=4, out_channels=8)
    model.save_pretrained(folder / "transformer")
    DDIMScheduler(clip_sample=False).save_pretrained(folder / "scheduler")
    (folder / "vae").mkdir()  # its output is latents


def half_anchors(steps: int, layers: int, tokens: int, keep: int) -> np.ndarray:
    """Anchors at even steps; at odd ones alternately pruned and reused."""
    kept = np.zeros((steps, layers, 2), np.int64)
    kept[0::2] = tokens
    kept[1::4, :, 1] = keep
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--keep", type=int, default=64, help="tokens of 256 that pruned modules keep (default 64)")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "dit-xl-width"
        save_random_dit(model, args.layers)
        options = SamplerOptions("ddim", args.steps, 0.0, 1.5)
        bench = Workbench(str(model), options, StageStore(Path(scratch) / "work"), lambda *_: None)
        spec = bench.loaded.denoiser.spec
        kept = half_anchors(args.steps, args.layers, spec.num_tokens, args.keep)
        plan = Plan(identify(spec), SamplerIdentity("ddim", args.steps), 1.5, Schedule.of(kept))
        out = bench.build(plan, "ort", Path(scratch) / "bundle").out
        del bench
        result = bench_bundle(
            out, BenchOptions(batch=args.batch, rounds=args.rounds),
            lambda done, total: print(f"{done}/{total}", end="\r", file=sys.stderr),
        )  # fmt: skip
    record = {
        "settings": {name: value for name, value in vars(args).items() if name != "out"},
        "machine": {"processor": _processor(), "system": platform.system(), "python": platform.python_version(),
                    "onnxruntime": onnxruntime.__version__},
        "result": {**msgspec.to_builtins(result), "bundle": "random weights"},
    }  # fmt: skip
    text = json.dumps(record, indent=1)
    print(text)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text + "\n")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor()


if __name__ == "__main__":
    main()
