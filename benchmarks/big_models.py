"""Build the big models at true size with random weights, and measure what it takes: time, peak memory, bytes.

    python benchmarks/big_models.py pixart        # PixArt 512, 20 steps, budget 8
    python benchmarks/big_models.py dit-ddim      # DiT-XL/2 256, DDIM-50, budget 18
    python benchmarks/big_models.py dit-ddpm      # DiT-XL/2 256, DDPM-250, budget 72
    python benchmarks/big_models.py text-encoder  # T5-XXL, bfloat16 shards to a bfloat16 program (needs 20 GB of disk)

Random weights have no sensitivity worth measuring, so the build starts from a made-up map with the shape that real
ones have: errors that grow with the interval and differ from layer to layer. Results go to docs/results/big-*.json.
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
from typing import Any

RESULTS = Path(__file__).parents[1] / "docs/results"
CLI = [sys.executable, "-m", "soda_export"]
CASES = {
    "pixart": ["--model", "pixart", "--random-weights", "0"],
    "dit-ddim": ["--model", "dit-xl-2-256", "--random-weights", "0"],
    "dit-ddpm": ["--model", "dit-xl-2-256", "--random-weights", "0", "--sampler", "ddpm", "--steps", "250"],
}
BUDGETS = {"pixart": 8, "dit-ddim": 18, "dit-ddpm": 72}


def run(command: list[str], folder: Path) -> tuple[float, int, str]:
    """Seconds, peak resident bytes and stderr of a child process."""
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as log:
        child = subprocess.Popen(command, cwd=folder, stderr=log, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        text = log.read()
    if child.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{text}")
    return time.perf_counter() - started, usage.ru_maxrss * 1024, text


def measure_build(name: str, folder: Path, play: bool) -> dict[str, Any]:
    """Build from a made-up map, and play a whole generation where that is wanted."""
    model = CASES[name]
    make = "import sys; sys.path.insert(0, sys.argv[1]); import big_models as b; b.write_map(sys.argv[2], sys.argv[3])"
    run([sys.executable, "-c", make, str(Path(__file__).parent), name, str(folder / "map.safetensors")], folder)
    out = folder / "engines" / name
    planning = ("--map", "map.safetensors", "--budget", str(BUDGETS[name]), "--planner", "soda")
    build_seconds, peak, log = run(
        [*CLI, "build", *model, *planning, "--without", "text-encoder", "--backend", "ort", "--out", str(out)], folder
    )
    exported = re.search(r"export: (\d+) graphs in ([\d.]+) s", log)
    assert exported is not None, log
    manifest = json.loads((out / "manifest.json").read_text())
    used = {step["program"] for step in manifest["steps"]}
    weights = out / manifest["weights"][0]
    played = {}
    if play:
        seconds, play_peak, _ = run([*CLI, "run", str(out), "--out", "latents.npy", *_condition(manifest, folder)],
                                    folder)  # fmt: skip
        played = {"play_s": seconds, "play_peak_bytes": play_peak}
    return {
        "case": name, "build_s": build_seconds, "build_peak_bytes": peak,
        "export_s": float(exported[2]), "graphs": int(exported[1]), "engines": len(used),
        "flops_ratio": manifest["flops_ratio"], "weights_bytes": weights.stat().st_size,
        "one_copy_bytes": one_copy_bytes(weights), "prepare_table_bytes": window_bytes(manifest),
        **played,
        "stages": [line for line in log.splitlines() if re.match(r"(export|decoder|compile|programs)", line)],
    }  # fmt: skip


def write_map(name: str, path: str) -> None:
    """A sensitivity map of plausible numbers for one of CASES."""
    import numpy as np

    from soda_export.models.identity import SamplerIdentity, identify
    from soda_export.models.load import ModelRequest, load_model
    from soda_export.options import DEFAULTS
    from soda_export.profile import sensitivity as maps

    spec = load_model(ModelRequest(CASES[name][1], random_weights=0)).denoiser.spec
    sampler, guidance = DEFAULTS[spec.family]
    if "--steps" in CASES[name]:
        sampler = SamplerIdentity("ddpm", 250)
    random, intervals = np.random.default_rng(0), np.arange(1, maps.MAX_INTERVAL + 1)
    scale = random.uniform(0.2, 1.0, (sampler.steps, spec.num_layers, len(spec.modules), 1))
    reuse = (0.01 * scale * intervals**1.5).astype(np.float32)
    prune = reuse[..., None] * np.array(maps.RATES, np.float32)
    hidden = 0.01 * np.broadcast_to(intervals**1.5, (sampler.steps, maps.MAX_INTERVAL)).astype(np.float32)
    for step in range(sampler.steps):  # no value is older than the run
        reuse[step, :, :, step:], prune[step, :, :, step:] = np.nan, np.nan
    info = maps.MapInfo(
        maps.FORMAT, maps.VERSION, identify(spec), sampler, guidance, 1, 0, "cosine", "mean"
    )  # fmt: skip
    made = maps.SensitivityMap(info, reuse, np.zeros_like(reuse), prune, np.zeros_like(prune), hidden)
    Path(path).write_bytes(maps.map_bytes(made))


def _condition(manifest: dict[str, Any], folder: Path) -> list[str]:
    if manifest["model"]["condition"]["kind"] == "label":
        return ["--labels", "207"]
    import numpy as np
    from safetensors.numpy import save_file

    text = manifest["model"]["condition"]
    shape, random = (1, text["max_tokens"], text["embed_width"]), np.random.default_rng(0)
    tensors = {}
    for kind in ("prompt", "negative_prompt"):
        tensors[f"{kind}_embeds"] = random.standard_normal(shape).astype(np.float32)
        tensors[f"{kind}_attention_mask"] = np.ones(shape[:2], np.int64)
    save_file(tensors, folder / "embeds.safetensors")
    return ["--embeds", "embeds.safetensors"]


def one_copy_bytes(weights: Path) -> int:
    """Bytes of the tensors alone."""
    from soda_runtime.tensors import read_header

    return sum(entry.end - entry.begin for entry in read_header(weights).values())


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
    return per_step * max(1, min(steps, (64 << 20) // per_step))


def measure_text_encoder(folder: Path) -> dict[str, Any]:
    """Stream a whole T5-XXL from shards of 5 GB."""
    checkpoint, out = folder / "text_encoder", folder / "out"
    checkpoint.mkdir()
    out.mkdir()
    make = "import sys; sys.path.insert(0, sys.argv[1]); import big_models as b; b.write_random_t5(sys.argv[2])"
    run([sys.executable, "-c", make, str(Path(__file__).parent), str(checkpoint)], folder)
    export = (
        "import sys; from pathlib import Path; from soda_export.export.text_encoder import export_text_encoder as e; "
        "e(Path(sys.argv[1]), Path(sys.argv[2]), max_tokens=120, precision='bf16')"
    )
    seconds, peak, _ = run([sys.executable, "-c", export, str(checkpoint), str(out)], folder)
    shards = [path.stat().st_size for path in checkpoint.glob("*.safetensors")]
    return {
        "case": "text-encoder", "export_s": seconds, "peak_bytes": peak, "largest_shard_bytes": max(shards),
        "checkpoint_bytes": sum(shards), "weights_bytes": (out / "text-encoder.safetensors").stat().st_size,
    }  # fmt: skip


def write_random_t5(folder: str) -> None:
    """A T5-XXL checkpoint of zeros in shards, as transformers would save it."""
    import torch

    from soda_export.export.tensor_file import TensorSource, write_tensors
    from soda_export.models.published import read_published
    from soda_export.models.text import read_text_model

    config = read_published("pixart")["text_encoder"]
    module = read_text_model(config).fake().module
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=[*CASES, "text-encoder"])
    parser.add_argument("--scratch", type=Path, help="where to build; default: the system's temporary folder")
    parser.add_argument("--play", action="store_true", help="generate once; ONNX Runtime repacks weights per engine")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        folder = Path(scratch)
        is_text = args.case == "text-encoder"
        result = measure_text_encoder(folder) if is_text else measure_build(args.case, folder, args.play)
    result["cores"] = len(os.sched_getaffinity(0))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"big-{args.case}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
