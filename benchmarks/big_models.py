"""Build the big models at true size with random weights, and measure what it takes: time, peak memory, bytes.

    python benchmarks/big_models.py pixart        # PixArt 512, 20 steps, budget 8
    python benchmarks/big_models.py dit-ddim      # DiT-XL/2 256, DDIM-50, budget 18
    python benchmarks/big_models.py dit-ddpm      # DiT-XL/2 256, DDPM-250, budget 72
    python benchmarks/big_models.py flux-dev      # FLUX.1-dev 1024, 28 steps, budget 14, bf16 (needs 30 GB of disk)
    python benchmarks/big_models.py sd3-medium    # SD3 medium 1024, 28 steps, budget 14
    python benchmarks/big_models.py text-encoder  # T5-XXL, bfloat16 shards to a bfloat16 program (needs 20 GB of disk)

Random weights have no sensitivity worth measuring, so the build starts from a made-up map with the shape that real
ones have: errors that grow with the interval and differ from site to site. Results go to docs/results/big-*.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).parents[1] / "docs/results"
CLI = [sys.executable, "-m", "soda_export"]
CASES = {
    "pixart": ["--model", "pixart", "--random-weights", "0"],
    "dit-ddim": ["--model", "dit-xl-2-256", "--random-weights", "0"],
    "dit-ddpm": ["--model", "dit-xl-2-256", "--random-weights", "0", "--sampler", "ddpm", "--steps", "250"],
    "flux-dev": ["--model", "flux-dev", "--random-weights", "0"],
    "sd3-medium": ["--model", "sd3-medium", "--random-weights", "0"],
}
BUDGETS = {"pixart": 8, "dit-ddim": 18, "dit-ddpm": 72, "flux-dev": 14, "sd3-medium": 14}
_BUILDS = {"flux-dev": ["--backend", "openvino", "--precision", "bf16"]}
"""Where it is not fp32 for ONNX Runtime, whose CPU provider has no bfloat16 products."""
_STAGES = re.compile(r"(model|plan|programs|export|compile|decoder|bundle)\b")
_PLAY = (
    "import sys; from soda_runtime import Session; from soda_runtime.request import example_request as example; "
    "session = Session.open(sys.argv[1]); session.generate(**example(session.bundle, 1))"
)


class Ran(NamedTuple):
    """A child process: its seconds, its peak resident bytes, and when it said what on stderr."""

    seconds: float
    peak_bytes: int
    lines: list[tuple[float, str]]

    @property
    def log(self) -> str:
        """All lines."""
        return "\n".join(text for _, text in self.lines)


def run(command: list[str], folder: Path) -> Ran:
    """Run to the end. Ends the script where the child fails."""
    started = time.perf_counter()
    child = subprocess.Popen(command, cwd=folder, text=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert child.stderr is not None
    with child.stderr:
        lines = [(time.perf_counter() - started, line.rstrip()) for line in child.stderr]
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    done = Ran(time.perf_counter() - started, usage.ru_maxrss * 1024, lines)
    if child.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.log}")
    return done


def measure_build(name: str, folder: Path, play: bool) -> dict[str, Any]:
    """Build from a made-up map, and play a whole generation where that is wanted."""
    make = "import sys; sys.path.insert(0, sys.argv[1]); import big_models as b; b.write_map(sys.argv[2], sys.argv[3])"
    run([sys.executable, "-c", make, str(Path(__file__).parent), name, str(folder / "map.safetensors")], folder)
    out = folder / "engines" / name
    planning = ("--map", "map.safetensors", "--budget", str(BUDGETS[name]), "--planner", "soda")
    options = (*_BUILDS.get(name, ("--backend", "ort")), "--without", "text-encoder", "--out", str(out))
    built = run([*CLI, "build", *CASES[name], *planning, *options], folder)
    exported = re.search(r"export: (\d+) graphs in ([\d.]+) s", built.log)
    assert exported is not None, built.log
    manifest = json.loads((out / "manifest.json").read_text())
    weights, played = out / manifest["weights"][0], {}
    if play:
        done = run([sys.executable, "-c", _PLAY, str(out)], folder)
        played = {"play_s": done.seconds, "play_peak_bytes": done.peak_bytes}
    return {
        "case": name, "backend": manifest["backend"], "precision": manifest["precision"],
        "build_s": built.seconds, "build_peak_bytes": built.peak_bytes, "export_s": float(exported[2]),
        "graphs": int(exported[1]), "engines": len({step["program"] for step in manifest["steps"]}),
        "flops_ratio": manifest["flops_ratio"], "weights_bytes": weights.stat().st_size,
        "one_copy_bytes": one_copy_bytes(weights), "weights_on_disk_bytes": bytes_on_disk(folder / "engines"),
        "prepare_table_bytes": window_bytes(manifest), **played, "stages": stages_of(built.lines),
    }  # fmt: skip


def stages_of(lines: list[tuple[float, str]]) -> list[dict[str, Any]]:
    """What each stage said at its end, and the seconds since the one before; starting Python counts to the first."""
    found, before = [], 0.0
    for at, text in lines:
        if _STAGES.match(text):
            found.append({"seconds": at - before, "line": text})
            before = at
    return found


def write_map(name: str, path: str) -> None:
    """A sensitivity map of plausible numbers for one of CASES."""
    from dataclasses import replace

    import numpy as np

    from soda_export.models.identity import SamplerIdentity
    from soda_export.models.load import ModelRequest, load_model
    from soda_export.options import defaults_for
    from soda_export.plan.prior import uniform_map
    from soda_export.plan.sensitivity import MAX_INTERVAL, map_bytes

    loaded = load_model(ModelRequest(CASES[name][1], random_weights=0))
    sampler, guidance = defaults_for(loaded)
    if "--steps" in CASES[name]:
        sampler = SamplerIdentity("ddpm", 250)
    spec, alike = loaded.spec, uniform_map(loaded.spec, sampler, sampler.steps, guidance)
    scale = np.random.default_rng(0).uniform(0.2, 1.0, (sampler.steps, len(spec.sites), 1))
    if spec.stack is not None:
        scale[:, spec.stack] = 1.0
    scale = (scale * np.arange(1, MAX_INTERVAL + 1) ** 0.5).astype(np.float32)  # [S, K, I]
    made = replace(alike, reuse_error=alike.reuse_error * scale, prune_error=alike.prune_error * scale[..., None])
    Path(path).write_bytes(map_bytes(made))


def one_copy_bytes(weights: Path) -> int:
    """Bytes of the tensors alone."""
    from soda_runtime.tensors import read_header

    return sum(entry.end - entry.begin for entry in read_header(weights).values())


def bytes_on_disk(folder: Path) -> int:
    """Of all tensor files in a folder, stages and bundle; one that has several names counts once."""
    found = [path.stat() for path in folder.rglob("*.safetensors")]
    return sum({(stat.st_dev, stat.st_ino): stat.st_size for stat in found}.values())


def window_bytes(manifest: dict[str, Any]) -> int:
    """What the runtime holds of tensors of single steps, for one sample (BUNDLE.md: windows of at most 64 MiB)."""
    sizes = {"float32": 4, "float16": 2, "bfloat16": 2}
    rows, steps, per_step = manifest["rows_per_sample"], manifest["sampler"]["steps"], 0
    for tensor in manifest["tensors"]:
        if tensor["per_step"]:
            elements = rows if tensor["rows"] else 1
            for n in tensor["shape"]:
                elements *= n
            per_step += elements * sizes[tensor["dtype"]]
    return per_step * max(1, min(steps, (64 << 20) // max(1, per_step)))


def machine() -> dict[str, Any]:
    """What the figures depend on: the processor, whether it multiplies bfloat16, and how many cores were used."""
    from soda_export.bench.doctor import describe_machine

    found = describe_machine()
    bfloat16 = {name: name in found.features for name in ("amx_bf16", "avx512_bf16")}
    return {"processor": found.processor, **bfloat16, "cores": len(os.sched_getaffinity(0))}


def measure_text_encoder(folder: Path) -> dict[str, Any]:
    """Stream a whole T5-XXL from shards of 5 GB."""
    checkpoint, out = folder / "text_encoder", folder / "out"
    checkpoint.mkdir()
    out.mkdir()
    make = "import sys; sys.path.insert(0, sys.argv[1]); import big_models as b; b.write_random_t5(sys.argv[2])"
    run([sys.executable, "-c", make, str(Path(__file__).parent), str(checkpoint)], folder)
    export = make.replace("b.write_random_t5(sys.argv[2])", "b.export_t5(sys.argv[2], sys.argv[3])")
    done = run([sys.executable, "-c", export, str(Path(__file__).parent), str(checkpoint), str(out)], folder)
    shards = [path.stat().st_size for path in checkpoint.glob("*.safetensors")]
    return {
        "case": "text-encoder", "export_s": done.seconds, "peak_bytes": done.peak_bytes,
        "largest_shard_bytes": max(shards), "checkpoint_bytes": sum(shards),
        "weights_bytes": (out / "text-encoder.safetensors").stat().st_size,
    }  # fmt: skip


def write_random_t5(folder: str) -> None:
    """A T5-XXL checkpoint of zeros in shards, as transformers would save it."""
    import torch

    from soda_export.export.tensor_file import TensorSource, write_tensors
    from soda_export.models.published import read_published
    from soda_export.models.text import read_text_model

    config = read_published("pixart")["text_encoder"]
    module = read_text_model(config).build(lambda parameter: torch.empty(parameter.shape, device="meta"))
    shapes = {name: tuple(own.shape) for name, own in module.named_parameters() if "embed_tokens" not in name}
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    room = 5_000_000_000
    for name, shape in shapes.items():
        nbytes = 2 * math.prod(shape)
        if nbytes > room:
            shards.append({})
            room = 5_000_000_000
        room -= nbytes
        shards[-1][name] = shape
    index = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        sources = [
            TensorSource(name, torch.bfloat16, shape, partial(torch.zeros, shape, dtype=torch.bfloat16))
            for name, shape in shard.items()
        ]
        write_tensors(Path(folder) / file, sources)
        index |= dict.fromkeys(shard, file)
    (Path(folder) / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    (Path(folder) / "config.json").write_text(json.dumps(config))


def export_t5(folder: str, out: str) -> None:
    """PixArt's prompts as a program in bf16."""
    from soda_export.export.text_encoder import export_text_encoder
    from soda_export.models.families.pixart import PIXART
    from soda_export.models.prompts import PromptModel
    from soda_export.models.text import read_text_model

    (part,), encoder = PIXART.texts.parts, read_text_model(Path(folder))
    tokens = PIXART.text_tokens
    model = PromptModel(PIXART.texts, {part: encoder}, tokens, {"embeds": (tokens, encoder.width("last"))})
    export_text_encoder(model, {part.name: Path(folder)}, Path(out), precision="bf16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=[*CASES, "text-encoder"])
    parser.add_argument("--scratch", type=Path, help="where to build; default: the system's temporary folder")
    parser.add_argument("--play", action="store_true", help="generate once; engines repack their weights")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        folder = Path(scratch)
        is_text = args.case == "text-encoder"
        result = measure_text_encoder(folder) if is_text else measure_build(args.case, folder, args.play)
    result |= machine()
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"big-{args.case}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
