"""Measure a GPU: what the same schedule gains eagerly, and in the engines of every library that is there.

    scripts/bench_gpu.sh                              # DiT-XL/2 256 at batch 1 and 8, PixArt 512 and 1024
    scripts/bench_gpu.sh --cases dit-xl-2-256 --ratios 2.5
    python benchmarks/gpu.py --smoke --device cpu     # two layers and few steps: whether the script itself works

Random weights, which time like real ones; a made-up map, since they have no sensitivity worth measuring. Every figure
is a median over generations from request to latents. What cannot run says why in the table. Not yet run on a GPU.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from big_models import CASES, CLI, RESULTS, run, write_map

BATCHES = {"dit-xl-2-256": (1, 8), "pixart": (1,), "pixart-1024": (1,)}
RATIOS = (1.9, 2.5)
ENGINES = {"ort": ("fp16",), "trt_rtx": ("fp16", "bf16"), "trt": ("fp16", "bf16")}


def median_seconds(generate: Callable[[], object], device: str, rounds: int) -> float:
    """After two warm-ups, which compile and record."""
    times = []
    for i in range(rounds + 2):
        started = time.perf_counter()
        generate()
        if device == "cuda":
            torch.cuda.synchronize()
        if i >= 2:
            times.append(time.perf_counter() - started)
    return statistics.median(times)


def measure_eager(model: str, steps: int, batch: int, device: str, compiled: bool, rounds: int) -> float:
    """Seconds of a generation with diffusers' own transformer in bf16, everything computed, guidance on."""
    import diffusers

    from soda_export.models.load import ModelRequest, load_denoiser

    spec = load_denoiser(ModelRequest(model, random_weights=0)).denoiser.spec
    config = _config(model)
    kind = getattr(diffusers, "DiTTransformer2DModel" if spec.family == "dit" else "PixArtTransformer2DModel")
    transformer = kind.from_config(config).to(device, torch.bfloat16).eval()
    step = torch.compile(transformer) if compiled else transformer
    rows, latents = 2 * batch, torch.randn(batch, *spec.latent_shape, device=device, dtype=torch.bfloat16)
    if spec.family == "dit":
        more: dict[str, Any] = {"class_labels": torch.zeros(rows, dtype=torch.long, device=device)}
    else:
        text = torch.randn(rows, 120, config["caption_channels"], device=device, dtype=torch.bfloat16)
        sizes = {"resolution": None, "aspect_ratio": None}
        more = {"encoder_hidden_states": text, "added_cond_kwargs": sizes}
    times = torch.linspace(999, 0, steps, device=device).long()

    @torch.no_grad()
    def generate() -> torch.Tensor:
        x = latents
        for t in times:
            out = step(torch.cat([x, x]), timestep=t.expand(rows), **more).sample[:, : x.shape[1]]
            conditional, unconditional = out.chunk(2)
            x = x - 0.01 * (unconditional + 4.0 * (conditional - unconditional))  # as much work as a sampler's step
        return x

    return median_seconds(generate, device, rounds)


def measure_reference(model: str, plan: Path, batch: int, device: str, rounds: int) -> float:
    """Seconds of a generation with the eager reference and the plan: the same schedule, not compiled; fp32."""
    from soda_export.export.weights import owned_modules
    from soda_export.lower.lower import lower_plan
    from soda_export.models.load import ModelRequest, load_denoiser
    from soda_export.models.spec import TextCondition
    from soda_export.plan.plan import read_plan
    from soda_export.profile.calibration import TextCalibration, random_texts
    from soda_export.reference import run_reference
    from soda_export.sampler import freeze_sampler

    loaded, schedule = load_denoiser(ModelRequest(model, random_weights=0)), read_plan(plan)
    spec = loaded.denoiser.spec
    for module in owned_modules(loaded.denoiser).values():
        module.to(device)
    sampler = freeze_sampler(
        schedule.sampler.name, loaded.scheduler_config, schedule.sampler.steps, schedule.sampler.eta,
        learned_variance=spec.out_channels == 2 * spec.latent_shape[0],
    )  # fmt: skip
    table = lower_plan(schedule, spec, "fp32")
    noise = torch.randn(batch, *spec.latent_shape)
    if isinstance(spec.condition, TextCondition):
        condition: Any = TextCalibration(random_texts(spec.condition, batch, 0), table.rows)(range(batch))
    else:
        condition = torch.zeros(batch, dtype=torch.long)
    with torch.device(device):
        return median_seconds(lambda: run_reference(loaded.denoiser, sampler, table, condition, noise), device, rounds)


def measure_engines(folder: Path, case: dict[str, Any], backend: str, precision: str, device: str) -> dict[str, Any]:
    """`soda-export build` and `bench` of one bundle; cuda_graph off as well where it can be."""
    out = f"{case['model']}-{case['ratio']}-{backend}-{precision}"
    target = ["--target", "current", "--max-batch", str(max(case["batches"]))] if backend != "ort" else []
    without = ["--without", "text-encoder", "--without", "decoder"]
    command = [*CLI, "build", *case["arguments"], "--plan", case["plan"], *without]
    seconds, _, _ = run([*command, "--backend", backend, "--precision", precision, *target, "--out", out], folder)
    rows = {}
    for batch in case["batches"]:
        for graph in ("off", "on") if device == "cuda" else ("off",):
            options = ["--batch", str(batch), "--rounds", str(case["rounds"]), "--device", device]
            options += ["--cuda-graph", graph] if device == "cuda" else []
            done = subprocess.run([*CLI, "bench", out, *options, "--json"], cwd=folder, capture_output=True, text=True,
                                  check=False)  # fmt: skip
            key = f"batch {batch}, graph {graph}"
            rows[key] = json.loads(done.stdout) if done.returncode == 0 else {"why_not": done.stderr.strip()[-300:]}
    return {"build_s": seconds, "runs": rows}


def attempt(what: Callable[[], Any]) -> Any:
    """A figure, or why there is none: one library that is missing must not cost the others their figures."""
    try:
        return what()
    except SystemExit as error:
        return {"why_not": str(error).strip()[-300:]}
    except Exception as error:
        return {"why_not": f"{type(error).__name__}: {str(error).strip()[:300]}"}


def measure_case(model: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Everything of one model."""
    if args.smoke:
        write_small(folder)
        CASES[model] = ["--model", str(folder / "small"), "--random-weights", "0"]
    CASES.setdefault(model, ["--model", model, "--random-weights", "0"])
    source, batches = CASES[model][1], (1,) if args.smoke else BATCHES[model]
    write_map(model, str(folder / "map.safetensors"))
    result: dict[str, Any] = {"model": model, "ratios": {}}
    for ratio in args.ratios:
        plan = f"{model}-{ratio}.plan.json"
        run([*CLI, "plan", *CASES[model], "--map", "map.safetensors", "--flops-ratio", str(ratio), "--planner", "soda",
             "--out", plan], folder)  # fmt: skip
        case = {"model": model, "ratio": ratio, "plan": plan, "batches": batches, "rounds": args.rounds,
                "arguments": CASES[model]}  # fmt: skip
        steps = json.loads((folder / plan).read_text())["sampler"]["steps"]
        row: dict[str, Any] = {"steps": steps}
        for batch in batches:
            if ratio == args.ratios[0]:
                ways = (("eager bf16", False), ("torch.compile bf16", True))
                for name, compiled in ways[:1] if args.smoke else ways:
                    given = (source, steps, batch, args.device, compiled, args.rounds)
                    row[f"{name}, batch {batch}"] = attempt(lambda g=given: measure_eager(*g))
            given_plan = (source, folder / plan, batch, args.device, args.rounds)
            row[f"eager reference, batch {batch}"] = attempt(lambda g=given_plan: measure_reference(*g))
        for backend, precisions in ENGINES.items():
            for precision in ("fp32",) if args.smoke else precisions:
                given_case = (folder, case, backend, precision, args.device)
                row[f"{backend} {precision}"] = attempt(lambda g=given_case: measure_engines(*g))
        result["ratios"][str(ratio)] = row
    return result


def write_small(folder: Path) -> None:
    """DiT-XL/2's configuration with two narrow layers, as a folder without weights."""
    from soda_export.models.published import read_published

    configs = read_published("dit-xl-2-256")
    small = {**configs["transformer"], "num_layers": 2, "num_attention_heads": 2, "sample_size": 8}
    for part, name, config in (("transformer", "config.json", small),
                               ("scheduler", "scheduler_config.json", configs["scheduler"])):  # fmt: skip
        path = folder / "small" / part / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(config))


def _config(model: str) -> dict[str, Any]:
    from soda_export.models.published import read_published

    path = Path(model) / "transformer" / "config.json"
    return dict(json.loads(path.read_text()) if path.is_file() else read_published(model)["transformer"])


def table_of(results: list[dict[str, Any]], hardware: str) -> str:
    """The figures as Markdown."""
    lines = [f"# {hardware}", "", "Seconds from request to latents, medians. Realization = speedup / FLOPs ratio.", ""]
    for result in results:
        for ratio, row in result["ratios"].items():
            lines += [f"## {result['model']}, {row['steps']} steps, FLOPs ratio {ratio}", ""]
            lines += ["| what | all compute | accelerated | speedup | realization | dispatch us |"]
            lines += ["|---|---|---|---|---|---|"]
            for name, value in row.items():
                lines += _lines_of(name, value)
            lines.append("")
    return "\n".join(lines)


def _lines_of(name: str, value: Any) -> list[str]:
    if isinstance(value, float):
        column = f"| {value:.4f} | |" if "reference" not in name else f"| | {value:.4f} |"
        return [f"| {name} {column} | | |"]
    if not isinstance(value, dict):
        return []
    if "why_not" in value:
        return [f"| {name} | {' '.join(value['why_not'].split())} | | | | |"]
    lines = []
    for key, run_of in value["runs"].items():
        if "why_not" in run_of:
            lines.append(f"| {name}, {key} | {' '.join(run_of['why_not'].split())} | | | | |")
            continue
        figures = (run_of["baseline_latency_s"], run_of["latency_s"], run_of["speedup"], run_of["realization"])
        text = " | ".join(f"{figure:.4f}" for figure in figures)
        lines.append(f"| {name}, {key} | {text} | {run_of['dispatch_us_per_step']:.1f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(BATCHES), choices=list(BATCHES))
    parser.add_argument("--ratios", nargs="+", type=float, default=list(RATIOS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--smoke", action="store_true", help="a small model, and nothing is kept")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("this torch sees no GPU; --device cpu --smoke tries the script")
    hardware = torch.cuda.get_device_name() if args.device == "cuda" else platform.processor() or "CPU"
    results = []
    for model in args.cases[:1] if args.smoke else args.cases:
        with tempfile.TemporaryDirectory() as scratch:
            results.append(measure_case(model, args, Path(scratch)))
    text = table_of(results, f"{hardware}, torch {torch.__version__}")
    print(text)
    if not args.smoke:
        (RESULTS / "gpu.json").write_text(json.dumps({"hardware": hardware, "results": results}, indent=1) + "\n")
        (RESULTS / "gpu.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
