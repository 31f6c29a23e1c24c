"""Bundles whose requests start from given latents, against diffusers' own image-to-image pipelines."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from soda_runtime import Noise, RequestError, Session
from torch import Tensor

from soda_export.eager.hints import random_conditions
from soda_export.models.load import ModelRequest
from soda_export.models.published import denoiser_folder
from soda_export.options import SamplerOptions
from soda_export.plan.schedule import Schedule
from soda_export.sampler import make_scheduler
from soda_export.workbench.pipeline import Workbench
from soda_export.workbench.stages import StageStore

from .test_pipelines import NO_PARTS, replace_noise, save_toy

STEPS, BATCH, BAR = 7, 2, 1e-3
PIPELINES: dict[str, tuple[str, int | None, float, tuple[str, ...]]] = {
    "sd15": ("StableDiffusionImg2ImgPipeline", None, 7.5, ("ddim", "euler", "dpm-solver++", "unipc", "ddpm")),
    "sdxl": ("StableDiffusionXLImg2ImgPipeline", None, 5.0, ("euler", "dpm-solver++-karras", "euler-ancestral")),
    "sd3": ("StableDiffusion3Img2ImgPipeline", None, 7.0, ("flow-euler",)),
    "flux-dev": ("FluxImg2ImgPipeline", 32, 1.0, ("flow-euler",)),
}
"""Name -> pipeline, side of the image, guidance, samplers."""
LONG = {("sd15", "unipc"), *(("sdxl", sampler) for sampler in PIPELINES["sdxl"][-1])}
CASES = [
    pytest.param(name, sampler, marks=[pytest.mark.long] * ((name, sampler) in LONG))
    for name, (*_, samplers) in PIPELINES.items() for sampler in samplers
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "sampler"), CASES)
def test_a_request_that_starts_from_latents_equals_the_pipeline(
    name: str, sampler: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = open_bench(name, sampler, tmp_path, tmp_path_factory)
    session = Session.open(bench.build(full_plan(bench), "ort", tmp_path / "bundle", NO_PARTS).out)
    conditions = random_conditions(bench.loaded.spec, BATCH, 1, {})
    asked: dict[str, Any] = {"inputs": as_arrays(conditions.rows(range(BATCH), 1)), "batch": BATCH}
    if bench.rows == 2:
        asked["negative_inputs"] = as_arrays(conditions.negative)
    for strength in (1.0, 0.65, 0.3):
        noise, clean = draw(bench, name, STEPS + 1), draw(bench, name, 1, seed=6)[0]
        packed, x0 = [pack(name, each) for each in noise], pack(name, clean)
        later = np.stack([each.numpy() for each in packed[1:]]) if bench.sampler.stochastic else None
        found = session.generate(
            **asked, noise=Noise(packed[0].numpy(), later), start_latents=x0.numpy(), strength=strength
        )
        scheduler = make_scheduler(sampler, bench.loaded.scheduler_config)
        run = STEPS - session.playback.first
        replace_noise(scheduler, iter(noise[1 + STEPS - run :]), monkeypatch)
        pipe = make_pipeline(bench, name, scheduler)
        module = importlib.import_module(type(pipe).__module__)
        monkeypatch.setattr(module, "randn_tensor", lambda *_, noise=noise, **__: noise[0])
        expected = run_pipeline(pipe, bench, name, conditions.rows(range(BATCH), bench.rows), clean, strength)
        scale = float(np.abs(expected).max())
        print(f"{name} {sampler} {strength:g}: {run} steps, difference {np.abs(found - expected).max() / scale:.1e}")
        assert np.abs(found - expected).max() <= BAR * scale


def test_a_sampler_that_calls_the_model_twice_at_its_first_timestep_cannot_start_elsewhere(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bench = open_bench("sd15", "pndm", tmp_path, tmp_path_factory)
    session = Session.open(bench.build(full_plan(bench), "ort", tmp_path / "bundle", NO_PARTS).out)
    latents = np.zeros((1, *bench.loaded.spec.latent_shape), np.float32)
    conditions = random_conditions(bench.loaded.spec, 1, 1, {})
    with pytest.raises(RequestError, match="the sampler pndm cannot"):
        session.start(
            inputs=as_arrays(conditions.rows(range(1), 1)), negative_inputs=as_arrays(conditions.negative),
            start_latents=latents, strength=0.5,
        )  # fmt: skip


def open_bench(name: str, sampler: str, tmp_path: Path, factory: pytest.TempPathFactory) -> Workbench:
    _, size, guidance, _ = PIPELINES[name]
    folder = factory.getbasetemp() / f"pipeline-{name}"
    if not folder.is_dir():
        save_toy(name, folder)
    options = SamplerOptions(sampler, STEPS, 0.0, guidance)
    return Workbench(ModelRequest(str(folder), image_size=size), options, StageStore(tmp_path / "s"), lambda *_: None)


def full_plan(bench: Workbench) -> Any:
    return bench.plan_of(Schedule.full(bench.loaded.spec, STEPS), "everything")


def as_arrays(rows: dict[str, Tensor]) -> dict[str, Any]:
    return {port: tensor.numpy() for port, tensor in rows.items()}


def draw(bench: Workbench, name: str, count: int, seed: int = 5) -> Tensor:
    """Normal numbers in the shape of latents as the pipeline's autoencoder has them: [count, B, C, H, W]."""
    shape = bench.loaded.spec.latent_shape
    if name.startswith("flux"):
        side = round(shape[0] ** 0.5)
        shape = (shape[1] // 4, 2 * side, 2 * side)
    return torch.randn(count, BATCH, *shape, generator=torch.Generator().manual_seed(seed))


def pack(name: str, latents: Tensor) -> Tensor:
    """[B, C, H, W] as the model takes it."""
    if not name.startswith("flux"):
        return latents
    return diffusers.FluxPipeline._pack_latents(latents, *latents.shape)


def make_pipeline(bench: Workbench, name: str, scheduler: Any) -> Any:
    """The pipeline, which is given embeddings and so needs no text encoder."""
    loaded, kind = bench.loaded, getattr(diffusers, PIPELINES[name][0])
    assert loaded.folder is not None
    place = denoiser_folder(loaded.folder)
    parts = dict.fromkeys(f"{part}{n}" for part in ("text_encoder", "tokenizer") for n in ("", "_2", "_3"))
    wanted: dict[str, Any] = {part: None for part in parts if part in kind.__init__.__annotations__}
    if name == "sd15":
        wanted |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipe = kind(
        **{place.name: getattr(diffusers, loaded.kind).from_pretrained(place)}, scheduler=scheduler,
        vae=diffusers.AutoencoderKL.from_pretrained(loaded.folder / "vae"), **wanted,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run_pipeline(
    pipe: Any, bench: Workbench, name: str, rows: dict[str, Tensor], latents: Tensor, strength: float
) -> Any:
    """Its latents. rows: by port, the unconditional half behind."""
    halves = {"": slice(BATCH), **({"negative_": slice(BATCH, None)} if bench.rows == 2 else {})}
    texts = {
        f"{prefix}{argument}": rows[port][half]
        for prefix, half in halves.items()
        for port, argument in (("embeds", "prompt_embeds"), ("pooled_embeds", "pooled_prompt_embeds"))
        if port in rows
    }
    guidance = rows["distilled_guidance"][0].item() if "distilled_guidance" in rows else bench.options.guidance
    size = {"height": PIPELINES[name][1], "width": PIPELINES[name][1]} if name.startswith("flux") else {}
    return pipe(
        **texts, **size, image=latents, strength=strength, num_inference_steps=STEPS, guidance_scale=guidance,
        output_type="latent",
    ).images.numpy()  # fmt: skip
