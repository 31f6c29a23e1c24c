"""A bundle that computes everything, from noise and embeddings to latents, against diffusers' own pipeline object."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
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
from soda_export.options import BundleOptions, SamplerOptions
from soda_export.plan.schedule import Schedule
from soda_export.sampler import make_scheduler
from soda_export.workbench.pipeline import Workbench
from soda_export.workbench.stages import StageStore
from tests.tiny_models import add_tiny_controlnet, save_tiny_flux, save_tiny_sd3, save_tiny_unet

STEPS, BATCH, BAR = 7, 2, 1e-3
NO_PARTS = BundleOptions(without=("text-encoder", "decoder"))
FLOWS = ("flow-euler", "flow-dpm-solver++", "flow-unipc")
PIPELINES: dict[str, tuple[str, dict[str, object], int | None, float, tuple[str, ...]]] = {
    "sd15": ("StableDiffusionPipeline", {}, None, 7.5, ("pndm", "euler", "dpm-solver++")),
    "sd21": ("StableDiffusionPipeline", {}, None, 7.5, ("ddim", "euler", "unipc")),
    "sdxl": ("StableDiffusionXLPipeline", {}, None, 5.0, ("euler", "ddim", "dpm-solver++-karras")),
    "sdxl-turbo": ("StableDiffusionXLPipeline", {}, None, 1.0, ("euler-ancestral", "lcm", "tcd")),
    "sd15-control": ("StableDiffusionControlNetPipeline", {}, None, 7.5, ("pndm",)),
    "sd15-controls": ("StableDiffusionControlNetPipeline", {}, None, 7.5, ("ddim",)),
    "sdxl-control": ("StableDiffusionXLControlNetPipeline", {}, None, 5.0, ("euler",)),
    "sd15-guess": ("StableDiffusionControlNetPipeline", {}, None, 4.0, ("ddim",)),
    "sd15-guesses": ("StableDiffusionControlNetPipeline", {}, None, 4.0, ("euler",)),
    "sd15-shuffle": ("StableDiffusionControlNetPipeline", {}, None, 7.5, ("ddim",)),
    "sdxl-guess": ("StableDiffusionXLControlNetPipeline", {}, None, 5.0, ("euler",)),
    "sdxl-guess-unguided": ("StableDiffusionXLControlNetPipeline", {}, None, 1.0, ("euler",)),
    "lcm": ("StableDiffusionPipeline", {"time_cond_proj_dim": 8}, None, 1.0, ("lcm",)),
    "flux-dev": ("FluxPipeline", {}, 32, 1.0, FLOWS),
    "flux-schnell": ("FluxPipeline", {"guidance_embeds": False}, 32, 1.0, FLOWS),
    "sd3": ("StableDiffusion3Pipeline", {"qk_norm": None, "dual_attention_layers": ()}, None, 7.0, FLOWS),
    "sd3.5": ("StableDiffusion3Pipeline", {}, None, 4.5, FLOWS),
}
"""Name -> pipeline, what its toy has beside the toy's own configuration, side of the image, guidance, samplers: the
published scheduler's first."""
CONTROLS = {
    "sd15-control": {"controlnet": 1.0}, "sdxl-control": {"controlnet": 0.7},
    "sd15-controls": {"controlnet": 0.8, "controlnet_1": 0.4}, "sd15-guess": {"controlnet": 0.9},
    "sd15-guesses": {"controlnet": 0.8, "controlnet_1": 0.4}, "sdxl-guess": {"controlnet": 0.7},
    "sdxl-guess-unguided": {"controlnet": 0.7}, "sd15-shuffle": {"controlnet": 0.6},
}  # fmt: skip
"""Pipeline -> folders of its ControlNets and what their residuals are times."""
LONG = (
    "sd15-control", "sd15-controls", "sd15-guess", "sd15-shuffle", "sdxl-guess", "sdxl-guess-unguided",
    "flux-schnell", "sd3",
)  # fmt: skip
"""sd15-guesses, sdxl-control (for sdxl, too), flux-dev and sd3.5 stay."""
LONG_SAMPLERS = (
    ("sd15", "dpm-solver++"), ("sd21", "euler"), ("sd21", "unipc"), ("sdxl", "euler"), ("sdxl", "ddim"),
    ("sdxl-turbo", "lcm"),
    *(("flux-dev", sampler) for sampler in FLOWS[1:]),  # sd3.5 has all
)  # fmt: skip
GUESSING = ("sd15-guess", "sd15-guesses", "sdxl-guess", "sdxl-guess-unguided", "sd15-shuffle")
"""Pipelines in guess_mode: asked for, or, with a ControlNet that pools, of their own."""
CASES = [(name, sampler) for name, (*_, samplers) in PIPELINES.items() for sampler in samplers]


def save_toy(name: str, folder: Path) -> Path:
    config = PIPELINES[name][1]
    if name.startswith("flux"):
        return save_tiny_flux(folder, **config)
    if name.startswith("sd3"):
        return save_tiny_sd3(folder, **config)
    save_tiny_unet(folder, name.split("-")[0] if name != "lcm" else "sd15", **config)
    for part in CONTROLS.get(name, {}):
        own = {"global_pool_conditions": True} if name.endswith("shuffle") else {}
        add_tiny_controlnet(folder, part, seed=len(part), **own)
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "sampler"),
    [pytest.param(*case, marks=[pytest.mark.long] * (case[0] in LONG or case in LONG_SAMPLERS)) for case in CASES],
)
def test_a_bundle_equals_the_pipeline(
    name: str, sampler: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, size, guidance, _ = PIPELINES[name]
    folder = tmp_path_factory.getbasetemp() / f"pipeline-{name}"
    if not folder.is_dir():
        save_toy(name, folder)
    model, options = ModelRequest(str(folder), image_size=size), SamplerOptions(sampler, STEPS, 0.0, guidance)
    bench = Workbench(model, options, StageStore(tmp_path / "store"), lambda *_: None)
    spec = bench.loaded.spec
    plan = bench.plan_of(Schedule.full(spec, STEPS), "everything")
    session = Session.open(bench.build(plan, "ort", tmp_path / "bundle", NO_PARTS).out)
    scales = dict(zip(("control_scale", "control_scale_2"), CONTROLS.get(name, {}).values(), strict=False))
    texts = random_conditions(spec, BATCH, 1, scales | {"guess_mode": float(name in GUESSING)})
    asked_for = [port.name for port in spec.ports if port.kind != "row"]
    given = {port: tensor.numpy() for port, tensor in texts.rows(range(BATCH), 1).items() if port in asked_for}
    asked: dict[str, Any] = {"inputs": given, "batch": BATCH}
    if bench.rows == 2:
        asked["negative_inputs"] = {p: tensor.numpy() for p, tensor in texts.negative.items() if p in asked_for}
    noise = torch.randn(STEPS + 1, BATCH, *spec.latent_shape, generator=torch.Generator().manual_seed(5))
    later = noise[1:].numpy() if bench.sampler.stochastic else None
    found = session.generate(**asked, noise=Noise(noise[0].numpy(), later))
    if name in CONTROLS:
        with pytest.raises(RequestError, match=r"guess_mode.* 0.* 1"):
            session.start(**{**asked, "inputs": {**given, "guess_mode": 2.0}})
    scheduler = make_scheduler(sampler, bench.loaded.scheduler_config)
    replace_noise(scheduler, iter(noise[1:]), monkeypatch)
    expected = run_pipeline(bench, name, scheduler, texts.rows(range(BATCH), bench.rows), noise[0])
    scale = float(np.abs(expected).max())
    print(f"{name} {sampler}: difference {np.abs(found - expected).max() / scale:.1e} of {scale:.1f}")
    assert np.abs(found - expected).max() <= BAR * scale


def replace_noise(scheduler: Any, noise: Iterator[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a stochastic scheduler draws, one tensor a step."""
    module = importlib.import_module(type(scheduler).__module__)
    if hasattr(module, "randn_tensor"):
        monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: next(noise))


def run_pipeline(bench: Workbench, name: str, scheduler: Any, rows: dict[str, Tensor], latents: Tensor) -> Any:
    """Latents of the pipeline, which is given embeddings and so needs no text encoder."""
    loaded, folder = bench.loaded, bench.loaded.folder
    assert folder is not None
    place = denoiser_folder(folder)
    pipeline = getattr(diffusers, PIPELINES[name][0])
    parts = dict.fromkeys(f"{part}{n}" for part in ("text_encoder", "tokenizer") for n in ("", "_2", "_3"))
    wanted = {part: None for part in parts if part in pipeline.__init__.__annotations__}
    if CONTROLS.get(name):
        nets = [diffusers.ControlNetModel.from_pretrained(folder / part) for part in CONTROLS[name]]
        wanted["controlnet"] = nets if len(nets) > 1 else nets[0]
    if name.startswith(("sd15", "sd21", "lcm")):
        wanted |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipe = pipeline(
        **{place.name: getattr(diffusers, loaded.kind).from_pretrained(place)}, scheduler=scheduler,
        vae=diffusers.AutoencoderKL.from_pretrained(folder / "vae"), **wanted,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    halves = {"": slice(BATCH), **({"negative_": slice(BATCH, None)} if bench.rows == 2 else {})}
    texts = {
        f"{prefix}{argument}": rows[port][half]
        for prefix, half in halves.items()
        for port, argument in (("embeds", "prompt_embeds"), ("pooled_embeds", "pooled_prompt_embeds"))
        if port in rows
    }
    if CONTROLS.get(name):
        hints, scales = [rows[port][:BATCH] for port in rows if port.startswith("hint")], list(CONTROLS[name].values())
        texts |= {"image": hints, "controlnet_conditioning_scale": scales} if len(hints) > 1 else {
            "image": hints[0], "controlnet_conditioning_scale": scales[0]
        }  # fmt: skip
        texts["guess_mode"] = name in GUESSING
    guidance = rows["distilled_guidance"][0].item() if "distilled_guidance" in rows else bench.options.guidance
    side = PIPELINES[name][2] or 16
    steps = STEPS - (type(scheduler) is diffusers.PNDMScheduler)  # which calls the model once more
    return pipe(
        **texts, height=side, width=side, num_inference_steps=steps, guidance_scale=guidance, latents=latents,
        output_type="latent",
    ).images.numpy()  # fmt: skip
