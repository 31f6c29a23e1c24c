"""Bundles that draw inside a mask, against diffusers' own inpainting pipelines and the eager reference."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from soda_runtime import Noise, RequestError, Session

from soda_export.eager.hints import random_conditions
from soda_export.eager.reference import Start, run_reference
from soda_export.errors import ExportError
from soda_export.options import BundleOptions
from soda_export.plan.schedule import Schedule
from soda_export.sampler import MEMORY, KnownRegion, freeze_starts, levels_after, make_scheduler
from soda_export.workbench.pipeline import Workbench
from tests.conftest import OpenBench
from tests.export.selection import label_rows
from tests.tiny import CLASSES, make_plan
from tests.tiny_models import add_tiny_controlnet, save_tiny_unet

from . import test_image_to_image as img2img
from .test_against_reference import noise_for
from .test_image_to_image import BATCH, STEPS, as_arrays, draw, full_plan, open_bench
from .test_pipelines import NO_PARTS, replace_noise
from .test_starts import plan_of_few_anchors

BAR = 1e-3
PIPELINES: dict[str, tuple[str, int | None, float, tuple[str, ...]]] = {
    "sd15": ("StableDiffusionInpaintPipeline", None, 7.5, ("ddim", "euler", "dpm-solver++", "unipc", "ddpm")),
    "sdxl": ("StableDiffusionXLInpaintPipeline", None, 5.0, ("euler",)),
}
LONG = {("sd15", "unipc"), ("sdxl", "euler")}
CASES = [
    pytest.param(name, sampler, marks=[pytest.mark.long] * ((name, sampler) in LONG))
    for name, (*_, samplers) in PIPELINES.items() for sampler in samplers
]  # fmt: skip
OWN_REGION: dict[str, tuple[str, int | None, float, tuple[str, ...]]] = {
    "sd15-inpaint": ("StableDiffusionInpaintPipeline", None, 7.5, ("ddim", "pndm", "euler")),
    "sdxl-inpaint": ("StableDiffusionXLInpaintPipeline", None, 5.0, ("euler", "dpm-solver++-karras")),
    "sdxl-inpaint-unguided": ("StableDiffusionXLInpaintPipeline", None, 1.0, ("euler",)),
    "sd15-inpaint-control": ("StableDiffusionControlNetInpaintPipeline", None, 7.5, ("ddim",)),
}
"""Of UNets that take a mask and masked latents themselves."""
OWN_CASES = [(name, sampler) for name, (*_, samplers) in OWN_REGION.items() for sampler in samplers]
OPTIONS = BundleOptions(without=("text-encoder", "decoder"), inpainting=True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "sampler"), CASES)
def test_a_bundle_that_inpaints_equals_the_pipeline(
    name: str, sampler: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(img2img, "PIPELINES", PIPELINES)
    bench = open_bench(name, sampler, tmp_path, tmp_path_factory)
    session = Session.open(bench.build(full_plan(bench), "ort", tmp_path / "bundle", OPTIONS).out)
    conditions = random_conditions(bench.loaded.spec, BATCH, 1, {})
    side = bench.loaded.spec.latent_shape[1]
    mask = torch.zeros(BATCH, 1, side, side)
    mask[0, :, : side // 2], mask[1, :, :, side // 4 :] = 1.0, 1.0
    asked: dict[str, Any] = {"inputs": {**as_arrays(conditions.rows(range(BATCH), 1)), "mask": mask.numpy()}}
    if bench.rows == 2:
        asked["negative_inputs"] = as_arrays(conditions.negative)
    for strength in (1.0, 0.65):
        noise, clean = draw(bench, name, STEPS + 1), draw(bench, name, 1, seed=6)[0]
        later = noise[1:].numpy() if bench.sampler.stochastic else None
        found = session.generate(
            **asked, noise=Noise(noise[0].numpy(), later), start_latents=clean.numpy(), strength=strength
        )
        scheduler = make_scheduler(sampler, bench.loaded.scheduler_config)
        run = STEPS - session.playback.first
        replace_noise(scheduler, iter(noise[1 + STEPS - run :]), monkeypatch)
        pipe = img2img.make_pipeline(bench, name, scheduler)
        module = importlib.import_module(type(pipe).__module__)
        monkeypatch.setattr(module, "randn_tensor", lambda *_, noise=noise, **__: noise[0])
        factor = pipe.vae_scale_factor
        big = mask.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
        rows = conditions.rows(range(BATCH), bench.rows)
        halves = {"": slice(BATCH), **({"negative_": slice(BATCH, None)} if bench.rows == 2 else {})}
        texts = {
            f"{prefix}{argument}": rows[port][half]
            for prefix, half in halves.items()
            for port, argument in (("embeds", "prompt_embeds"), ("pooled_embeds", "pooled_prompt_embeds"))
            if port in rows
        }
        expected = pipe(
            **texts, image=clean, mask_image=big, masked_image_latents=torch.zeros_like(clean), strength=strength,
            num_inference_steps=STEPS, guidance_scale=bench.options.guidance, output_type="latent",
            height=side * factor, width=side * factor,
        ).images.numpy()  # fmt: skip
        scale = float(np.abs(expected).max())
        print(f"{name} {sampler} {strength:g}: {run} steps, difference {np.abs(found - expected).max() / scale:.1e}")
        assert np.abs(found - expected).max() <= BAR * scale
        kept = (mask == 0).expand_as(clean).numpy()
        np.testing.assert_allclose(found[kept], clean.numpy()[kept], atol=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "sampler"), [OWN_CASES[0], *(pytest.param(*case, marks=pytest.mark.long) for case in OWN_CASES[1:])]
)
def test_a_unet_that_takes_a_mask_equals_the_pipeline(
    name: str, sampler: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From noise alone, and from latents to start from where the sampler can."""
    bench = open_own_bench(name, sampler, tmp_path, tmp_path_factory, monkeypatch)
    session = Session.open(bench.build(full_plan(bench), "ort", tmp_path / "bundle", NO_PARTS).out)
    ports = {port.name: port.shape for port in bench.loaded.spec.ports if port.kind == "hint"}
    assert {"mask": (1, 8, 8), "masked_latents": (4, 8, 8)}.items() <= ports.items()
    assert bench.loaded.spec.latent_shape == (4, 8, 8)
    conditions = random_conditions(bench.loaded.spec, BATCH, 1, {"control_scale": 0.7})
    rows = conditions.rows(range(BATCH), bench.rows)
    asked: dict[str, Any] = {"inputs": as_arrays(conditions.rows(range(BATCH), 1))}
    if bench.rows == 2:
        asked["negative_inputs"] = as_arrays(conditions.negative)
    for given in asked.values():
        given.pop("is_negative", None)  # which no request gives
    mask, masked = rows["mask"][:BATCH], rows["masked_latents"][:BATCH]
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    for strength in (1.0,) if sampler == "pndm" else (1.0, 0.65):
        noise, clean = draw(bench, name, STEPS + 1), draw(bench, name, 1, seed=6)[0]
        start = {} if strength == 1.0 else {"start_latents": clean.numpy(), "strength": strength}
        found = session.generate(**asked, noise=Noise(noise[0].numpy()), **start)
        scheduler = make_scheduler(sampler, bench.loaded.scheduler_config)
        pipe = inpainting_pipeline(bench, name, scheduler)
        module = importlib.import_module(type(pipe).__module__)
        monkeypatch.setattr(module, "randn_tensor", lambda *_, noise=noise, **__: noise[0])
        factor = pipe.vae_scale_factor
        halves = {"": slice(BATCH), **({"negative_": slice(BATCH, None)} if bench.rows == 2 else {})}
        words: dict[str, Any] = {
            f"{prefix}{argument}": rows[port][half]
            for prefix, half in halves.items()
            for port, argument in (("embeds", "prompt_embeds"), ("pooled_embeds", "pooled_prompt_embeds"))
            if port in rows
        }
        words |= {"image": clean, "masked_image_latents": masked}
        if "hint" in rows:  # that pipeline takes pictures, and encodes the masked one last
            del words["masked_image_latents"]
            words |= {"image": torch.zeros(BATCH, 3, 16, 16), "control_image": rows["hint"][:BATCH]}
            words["controlnet_conditioning_scale"] = 0.7
            encoded = iter([masked] if strength == 1.0 else [clean, masked])
            monkeypatch.setattr(pipe, "_encode_vae_image", lambda *_, encoded=encoded, **__: next(encoded))
        steps = STEPS - (sampler == "pndm")  # which calls the model once more
        expected = pipe(
            **words, mask_image=mask.repeat_interleave(factor, 2).repeat_interleave(factor, 3),
            strength=strength, num_inference_steps=steps, guidance_scale=bench.options.guidance,
            output_type="latent", height=8 * factor, width=8 * factor,
        ).images.numpy()  # fmt: skip
        scale = float(np.abs(expected).max())
        print(f"{name} {sampler} {strength:g}: difference {np.abs(found - expected).max() / scale:.1e}")
        assert np.abs(found - expected).max() <= BAR * scale
    other = session.generate(**{**asked, "inputs": {**asked["inputs"], "mask": 1 - mask.numpy()}}, seed=1)
    assert np.abs(other - session.generate(**asked, seed=1)).max() > BAR


def inpainting_pipeline(bench: Workbench, name: str, scheduler: Any) -> Any:
    """The pipeline, with the ControlNet of its folder where it has one."""
    folder = bench.loaded.folder
    assert folder is not None
    pipeline = getattr(diffusers, OWN_REGION[name][0])
    wanted: dict[str, Any] = {"text_encoder": None, "tokenizer": None}
    if name.startswith("sdxl"):
        wanted |= {"text_encoder_2": None, "tokenizer_2": None}
    else:
        wanted |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    if name.endswith("control"):
        wanted["controlnet"] = diffusers.ControlNetModel.from_pretrained(folder / "controlnet")
    pipe = pipeline(
        **wanted, unet=diffusers.UNet2DConditionModel.from_pretrained(folder / "unet"), scheduler=scheduler,
        vae=diffusers.AutoencoderKL.from_pretrained(folder / "vae"),
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def open_own_bench(
    name: str, sampler: str, tmp_path: Path, factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Workbench:
    """Of a UNet that takes a mask."""
    monkeypatch.setattr(img2img, "PIPELINES", OWN_REGION)
    folder = factory.getbasetemp() / f"pipeline-{name}"
    if not folder.is_dir():
        save_tiny_unet(folder, name.split("-")[0], in_channels=9)
        if name.endswith("control"):
            add_tiny_controlnet(folder)
    return open_bench(name, sampler, tmp_path, factory)


def test_what_a_unet_that_takes_a_mask_lacks_is_said_in_one_line(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = open_own_bench("sd15-inpaint", "ddim", tmp_path, tmp_path_factory, monkeypatch)
    plan = full_plan(bench)
    with pytest.raises(ExportError, match="--inpainting: pipeline-sd15-inpaint takes a mask beside its latents anyway"):
        bench.build(plan, "ort", tmp_path / "bundle", OPTIONS)
    session = Session.open(bench.build(plan, "ort", tmp_path / "bundle", NO_PARTS).out, backend="null")
    conditions = random_conditions(bench.loaded.spec, 1, 1, {})
    inputs = as_arrays(conditions.rows(range(1), 1))
    inputs.pop("masked_latents")
    with pytest.raises(RequestError, match="an input is missing; this bundle takes masked_latents"):
        session.start(inputs=inputs, negative_inputs=as_arrays(conditions.negative))


@pytest.mark.parametrize("sampler", [pytest.param("ddim", marks=pytest.mark.long), "unipc", "ddpm"])
def test_a_random_plan_that_inpaints_equals_the_reference(open_bench: OpenBench, tmp_path: Path, sampler: str) -> None:
    bench = open_bench(sampler, steps=10)
    kept, stack = plan_of_few_anchors(2)
    built = bench.build(make_plan(bench.loaded.spec, kept, sampler, stack=stack), "ort", tmp_path / "b", OPTIONS)
    session, table = Session.open(built.out), built.table
    starts = freeze_starts(bench.sampler, bench.loaded.scheduler_config)
    assert starts is not None
    labels, noise = [3, CLASSES - 1], noise_for(BATCH, 10, bench.sampler.stochastic)
    clean, rows = torch.from_numpy(noise_for(BATCH, 1, True).steps[0]), label_rows(labels, bench)  # type: ignore[index]
    later, initial = None if noise.steps is None else torch.from_numpy(noise.steps), torch.from_numpy(noise.initial)
    mask = torch.rand(BATCH, 1, 8, 8, generator=torch.Generator().manual_seed(1))  # soft edges blend, too
    known = lambda own: KnownRegion(own, levels_after(starts), mask, clean, initial)  # noqa: E731
    for asked, start in (
        ({"strength": 1.0}, None), ({"start_step": 0}, Start(starts, 0, clean)),
        ({"start_step": 4}, Start(starts, 4, clean)),
    ):  # fmt: skip
        found = session.generate(
            labels, inputs={"mask": mask.numpy()}, noise=noise, start_latents=clean.numpy(), **asked
        )
        expected = run_reference(
            bench.eager, bench.sampler, table, rows, initial, later, start=start, known=known
        ).numpy()  # fmt: skip
        assert np.abs(found - expected).max() <= BAR * np.abs(expected).max()
    plain = bench.build(make_plan(bench.loaded.spec, kept, sampler, stack=stack), "ort", tmp_path / "plain")
    found = session.generate(labels, inputs={"mask": np.ones((1, 1, 8, 8), np.float32)}, noise=noise)
    expected = Session.open(plain.out).generate(labels, noise=noise)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("sampler", "scheduler", "fitted", "message"),
    [
        ("pndm", {}, False, "pndm cannot start from latents"),
        ("unipc", {"solver_order": 3}, True, "a state of 9 tensors, more than 8"),
    ],
)
def test_a_sampler_that_cannot_inpaint_is_refused(
    open_text_bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str, scheduler: dict[str, object],
    fitted: bool, message: str,
) -> None:  # fmt: skip
    monkeypatch.setattr("soda_export.export.arrange.MOST_STATE", 8)
    bench = open_text_bench(sampler, scheduler=scheduler)
    plan = bench.plan_of(Schedule.full(bench.loaded.spec, 8), "everything")
    if fitted:
        wide = bench.sampler.widened(bench.sampler.state_size + MEMORY)
        plan = replace(plan, coefficients=wide.coefficients.tolist())
    with pytest.raises(ExportError, match=f"--inpainting: .*{message}.*choose another --sampler") as refused:
        bench.build(plan, "ort", tmp_path / "bundle", OPTIONS)
    assert str(refused.value).isprintable()
