"""Families at their true width and a few layers, random weights: against diffusers' module, and FLOPs against latency.

    python benchmarks/true_width.py flux sd3 sdxl --out docs/results/true-width.json

FLUX.1 with 2 double and 4 single blocks, SD3 with 4, SDXL with 2 transformer layers at each level. ONNX Runtime in
fp32 and OpenVINO in bf16 play one bundle each, everything computed and by `uniform` with half of the steps as anchors;
the reference is diffusers' module in float32 in the same loop, its sites' outputs replaced as the plan says. Times are
medians of rounds in which both take turns. `realized`: the ratio of latencies over that of FLOPs. `step_weights_bytes`:
what the step programs take of the checkpoint, which has `checkpoint_bytes` of the same type.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from big_models import machine
from soda_runtime import Noise, Session

from soda_export.eager.hints import random_conditions
from soda_export.eager.reference import run_reference
from soda_export.lower.lower import lower_plan
from soda_export.models.flops import full_step_flops
from soda_export.models.load import ModelRequest
from soda_export.models.published import read_published
from soda_export.models.weights import num_parameters
from soda_export.options import BundleOptions, SamplerOptions
from soda_export.plan.plan import Plan
from soda_export.plan.planners import PLANNERS
from soda_export.plan.problem import Problem, Target
from soda_export.plan.schedule import Schedule
from soda_export.sampler import own_sampler
from soda_export.workbench.pipeline import Workbench
from soda_export.workbench.stages import StageStore

CASES: dict[str, tuple[str, str, dict[str, Any], int, float]] = {
    "flux": ("flux-dev", "transformer", {"num_layers": 2, "num_single_layers": 4}, 256, 1.0),
    "sd3": ("sd3-medium", "transformer", {"num_layers": 4}, 256, 7.0),
    "sdxl": ("sdxl", "unet", {"transformer_layers_per_block": [1, 2, 2]}, 512, 5.0),
}
"""Name -> alias, folder of the denoiser, what is smaller, side of the image in pixels, guidance."""
_BYTES = {"fp32": 4, "bf16": 2}


def save_configs(name: str, folder: Path) -> Path:
    """A pipeline folder of configurations, without weights or autoencoder."""
    alias, part, smaller, _, _ = CASES[name]
    known = read_published(alias)
    scheduler = folder / "scheduler/scheduler_config.json"
    for path, content in ((folder / part / "config.json", known[part] | smaller), (scheduler, known["scheduler"])):
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": known["pipeline"]}))
    return folder


def measure(name: str, work: Path, steps: int, rounds: int) -> list[dict[str, Any]]:
    """A row for each backend."""
    side, guidance = CASES[name][3:]
    folder = save_configs(name, work / name)
    sampler = own_sampler(json.loads((folder / "scheduler/scheduler_config.json").read_text()))
    model, options = (
        ModelRequest(str(folder), random_weights=0, image_size=side),
        SamplerOptions(sampler, steps, 0.0, guidance),
    )
    bench = Workbench(model, options, StageStore(work / "store"), lambda *_: None)
    spec = bench.loaded.spec
    schedule = PLANNERS["uniform"](Problem(spec, sampler, steps, guidance), Target(steps // 2))
    plans = {True: bench.plan_of(schedule, "half"), False: bench.plan_of(Schedule.full(spec, steps), "everything")}
    texts = random_conditions(spec, 1, 1)
    asked: dict[str, Any] = {"inputs": {port: t.numpy() for port, t in texts.rows(range(1), 1).items()}, "batch": 1}
    if bench.rows == 2:
        asked["negative_inputs"] = {port: tensor.numpy() for port, tensor in texts.negative.items()}
    noise = np.random.default_rng(0).standard_normal((1, *spec.latent_shape)).astype(np.float32)
    expected = {
        accelerated: _reference(bench, plan, texts.rows(range(1), bench.rows), noise)
        for accelerated, plan in plans.items()
    }
    checkpoint, once = num_parameters(bench.loaded.weights), tuple(f"{path}." for path in once_paths(bench))
    found = []
    for backend, precision in (("ort", "fp32"), ("openvino", "bf16")):
        out = work / f"{name}-{backend}"
        built = bench.build(
            plans[True], backend, out, BundleOptions(without=("text-encoder", "decoder"), precision=precision)
        )
        sessions = {accelerated: Session.open(out) for accelerated in plans}  # one keeps the engines of one way
        seconds, errors = {True: [], False: []}, {}
        for turn in range(rounds + 1):  # the first opens the engines
            for accelerated in (True, False):
                started = time.perf_counter()
                latents = sessions[accelerated].generate(**asked, noise=Noise(noise, None), accelerated=accelerated)
                if turn:
                    seconds[accelerated].append(time.perf_counter() - started)
                errors[accelerated] = float(
                    np.abs(latents - expected[accelerated]).max() / np.abs(expected[accelerated]).max()
                )
        medians = {accelerated: statistics.median(times) for accelerated, times in seconds.items()}
        ratio, speedup = schedule.flops_ratio(spec, bench.rows), medians[False] / medians[True]
        names, elements = step_weights(out)
        found.append({
            "case": name, "backend": backend, "precision": precision, "image": side, "steps": steps,
            "error_everything": errors[False], "error_accelerated": errors[True], "everything_s": medians[False],
            "accelerated_s": medians[True], "flops_ratio": ratio, "speedup": speedup, "realized": speedup / ratio,
            "step_tflops": full_step_flops(spec, bench.rows) / 1e12, "engines": len(built.table.programs),
            "checkpoint_bytes": checkpoint * _BYTES[precision], "step_weights_bytes": elements * _BYTES[precision],
            "once_layers_in_steps": [n for n in names if n.startswith(once)],
        })  # fmt: skip
        print(json.dumps(found[-1]), flush=True)
    return found


def once_paths(bench: Workbench) -> list[str]:
    """Layers that depend on the timestep and the request alone: adaLN's, of the family's record."""
    import torch

    from soda_export.models.paths import expand_path

    modules = dict(bench.loaded.fake(torch.float32).module.named_modules())
    return [path for pattern in bench.loaded.family.once for path in expand_path(modules, pattern)]


def step_weights(bundle: Path) -> tuple[set[str], int]:
    """Names and numbers of the weights that any step program takes."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    taken: dict[str, int] = {}
    for number in {step["program"] for step in manifest["steps"]}:
        file = manifest["programs"][number]["file"]
        graph = onnx.load(bundle / file, load_external_data=False).graph
        taken |= {
            tensor.name: int(np.prod(tensor.dims)) for tensor in graph.initializer
            if tensor.data_location == onnx.TensorProto.EXTERNAL
        }  # fmt: skip
    return set(taken), sum(taken.values())


def _reference(bench: Workbench, plan: Plan, rows: Any, noise: Any) -> Any:
    import torch

    table = lower_plan(plan, bench.loaded.spec)
    return run_reference(bench.eager, bench.sampler, table, rows, torch.from_numpy(noise)).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", choices=CASES)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = []
    for name in args.cases:
        with tempfile.TemporaryDirectory(prefix="true-width-") as work:
            rows += measure(name, Path(work), args.steps, args.rounds)
    if args.out is not None:
        args.out.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
