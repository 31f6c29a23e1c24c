"""One eager measurement of benchmarks/gpu.py in a process of its own: a JSON object in, one out on the last line.

    python benchmarks/gpu_eager.py '{"system": "eager", "model": "dit-xl-2-256", "steps": 50, "batch": 1, ...}'

A model that takes down CUDA, or the memory of the GPU, then takes its own row with it and no other.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


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


def measure_diffusers(
    config: dict[str, Any], steps: int, batch: int, device: str, compiled: bool, rounds: int
) -> dict[str, float]:
    """Seconds of a generation with diffusers' own transformer in bf16, everything computed, guidance on."""
    import diffusers

    transformer = getattr(diffusers, config["_class_name"]).from_config(config).to(device, torch.bfloat16).eval()
    step: Any = torch.compile(transformer) if compiled else transformer
    size, rows = config["sample_size"], 2 * batch
    latents = torch.randn(batch, config["in_channels"], size, size, device=device, dtype=torch.bfloat16)
    if "caption_channels" in config:
        text = torch.randn(rows, 120, config["caption_channels"], device=device, dtype=torch.bfloat16)
        pixels = torch.full((rows, 2), 8.0 * size, device=device, dtype=torch.bfloat16)
        sizes = {"resolution": pixels, "aspect_ratio": torch.ones(rows, 1, device=device, dtype=torch.bfloat16)}
        more: dict[str, Any] = {"encoder_hidden_states": text, "added_cond_kwargs": sizes}
    else:
        more = {"class_labels": torch.zeros(rows, dtype=torch.long, device=device)}
    times = torch.linspace(999, 0, steps, device=device).long()

    @torch.no_grad()
    def generate() -> torch.Tensor:
        x = latents
        for t in times:
            out = step(torch.cat([x, x]), timestep=t.expand(rows), **more).sample[:, : x.shape[1]]
            conditional, unconditional = out.chunk(2)
            x = x - 0.01 * (unconditional + 4.0 * (conditional - unconditional))  # as much work as a sampler's step
        return x

    return {"baseline_latency_s": median_seconds(generate, device, rounds), **_peak(device)}


def measure_reference(model: str, plan: Path, batch: int, device: str, rounds: int) -> dict[str, float]:
    """Seconds of a generation with the eager reference, by the plan and all-compute: not compiled, fp32."""
    from soda_export.eager.hints import random_conditions
    from soda_export.eager.model import EagerModel
    from soda_export.eager.reference import run_reference
    from soda_export.lower.lower import lower_plan
    from soda_export.models.load import ModelRequest, load_model
    from soda_export.plan.plan import Plan, read_plan
    from soda_export.plan.schedule import Schedule
    from soda_export.sampler import freeze_sampler

    loaded, given = load_model(ModelRequest(model, random_weights=0)), read_plan(plan)
    spec, steps = loaded.spec, given.sampler.steps
    eager = EagerModel.of(loaded, device)
    sampler = freeze_sampler(
        given.sampler.name, loaded.scheduler_config, steps, given.sampler.eta,
        learned_variance=spec.prediction_shape[0] == 2 * spec.latent_shape[0],
    )  # fmt: skip
    everything = Plan(given.model, given.sampler, given.guidance, Schedule.full(spec, steps))
    tables = [lower_plan(each, spec, "fp32") for each in (given, everything)]
    noise = torch.randn(batch, *spec.latent_shape).to(device)
    conditions = random_conditions(spec, batch, 0)
    inputs = eager.place(conditions.rows(range(batch), given.rows))
    with torch.device(device):  # of what the reference makes on the way
        fast, whole = (
            median_seconds(lambda t=t: run_reference(eager, sampler, t, inputs, noise), device, rounds) for t in tables
        )
    speedup, ratio = whole / fast, tables[0].flops_ratio
    return {
        "latency_s": fast, "baseline_latency_s": whole, "speedup": speedup, "flops_ratio": ratio,
        "realization": speedup / ratio, **_peak(device),
    }  # fmt: skip


def _peak(device: str) -> dict[str, float]:
    return {"peak_bytes": torch.cuda.max_memory_allocated()} if device == "cuda" else {}


def main() -> None:
    job = json.loads(sys.argv[1])
    common = (job["batch"], job["device"])
    if job["system"] == "reference":
        found = measure_reference(job["source"], Path(job["plan"]), *common, job["rounds"])
    else:
        found = measure_diffusers(job["config"], job["steps"], *common, job["system"] == "compiled", job["rounds"])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
