"""The built-in scenes and shapes-flux: diffusers loads their folders, and their bundles draw what diffusers draws."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from soda_runtime import Noise, Session

from soda_export.eval.scene_checker import SceneChecker
from soda_export.eval.scenes import Scene, held_out_prompts, silhouette, silhouette_overlaps
from soda_export.models.load import DEFAULT_PARTS, TEXT_PARTS, LoadedModel, load_model
from soda_export.models.published import BUILTIN_CONTROLNETS, BUILTIN_FOLDER
from soda_export.models.request import ModelRequest
from soda_export.options import BundleOptions, SamplerOptions, defaults_for
from soda_export.plan.schedule import Schedule
from soda_export.workbench.pipeline import Workbench
from soda_export.workbench.stages import StageStore

PARTS = (*DEFAULT_PARTS, *TEXT_PARTS)
STEPS = 12
SAMPLERS = {"scenes": ("ddim", 3.0), "shapes-flux": ("flow-euler", 1.0)}
EXTRA = {"scenes": {}, "shapes-flux": {"max_sequence_length": 24}}
SILHOUETTES = "scenes-silhouettes"


def test_the_trained_models_together_take_at_most_40_megabytes() -> None:
    folders = [BUILTIN_FOLDER / name for name in (*SAMPLERS, "controlnets")]
    assert sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file()) <= 40e6


def test_the_controlnet_says_how_well_it_draws() -> None:
    score = json.loads((BUILTIN_CONTROLNETS / SILHOUETTES / "training.json").read_text())["controlnet score"]
    assert score["satisfied"] >= 0.85
    assert score["overlap"] >= 0.8


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_pipeline_folder_takes_at_most_16_megabytes_and_says_how_well_it_draws(name: str) -> None:
    folder = BUILTIN_FOLDER / name
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 16e6
    assert json.loads((folder / "training.json").read_text())["score"]["satisfied"] >= 0.85


def test_no_path_of_another_machine_is_in_a_built_in_model() -> None:
    for path in BUILTIN_FOLDER.rglob("*.json"):
        assert '"_name_or_path": "/' not in path.read_text(), path


@pytest.mark.parametrize("name", SAMPLERS)
def test_its_defaults_are_those_it_was_judged_with(name: str) -> None:
    loaded = load_model(name)
    sampler, guidance = defaults_for(loaded)
    assert (sampler.name, guidance) == SAMPLERS[name]
    score = json.loads((BUILTIN_FOLDER / name / "training.json").read_text())["score"]
    assert (sampler.steps, guidance) == (score["steps"], score["guidance"])
    assert loaded.spec.latent_shape in ((4, 16, 16), (64, 16))  # of 64 x 64 pixels


@pytest.mark.long
@pytest.mark.parametrize("name", ["scenes", "shapes-flux"])
def test_the_all_compute_bundle_draws_what_diffusers_draws(
    name: str, tmp_path: Path, record_property: Callable[..., None]
) -> None:
    sampler, guidance = SAMPLERS[name]
    options = SamplerOptions(sampler, STEPS, 0.0, guidance)
    bundle = _all_compute(load_model(ModelRequest(name), PARTS), options, tmp_path)
    pipeline = diffusers.DiffusionPipeline.from_pretrained(BUILTIN_FOLDER / name)
    scenes = held_out_prompts(6)
    images, noise = _draw(pipeline, scenes, name, **EXTRA[name])
    with Session.open(bundle) as session:
        session.generate(prompt=[scene.caption for scene in scenes], noise=Noise(noise.numpy()))
        drawn = session.images()
    _check(drawn, images, scenes, record_property)


@pytest.mark.long
def test_the_all_compute_bundle_with_the_controlnet_draws_what_diffusers_draws(
    tmp_path: Path, record_property: Callable[..., None]
) -> None:
    request = ModelRequest("scenes", controlnet=(SILHOUETTES,))
    bundle = _all_compute(load_model(request, PARTS), SamplerOptions("ddim", STEPS, 0.0, 3.0), tmp_path)
    controlnet = diffusers.ControlNetModel.from_pretrained(BUILTIN_CONTROLNETS / SILHOUETTES)
    pipeline = diffusers.StableDiffusionControlNetPipeline.from_pretrained(
        BUILTIN_FOLDER / "scenes", controlnet=controlnet
    )
    scenes = held_out_prompts(6)
    hints = np.stack([silhouette(scene) for scene in scenes])
    images, noise = _draw(pipeline, scenes, "scenes", image=torch.from_numpy(hints))
    with Session.open(bundle) as session:
        prompts = [scene.caption for scene in scenes]
        session.generate(prompt=prompts, inputs={"hint": hints}, noise=Noise(noise.numpy()))
        drawn = session.images()
    _check(drawn, images, scenes, record_property)
    assert silhouette_overlaps(drawn.transpose(0, 3, 1, 2), scenes).mean() >= 0.8


def _all_compute(loaded: LoadedModel, options: SamplerOptions, folder: Path) -> Path:
    bench = Workbench(loaded, options, StageStore(folder / "store"), lambda *_: None)
    plan = bench.plan_of(Schedule.full(loaded.spec, STEPS), "everything")
    return bench.build(plan, "ort", folder / "bundle", BundleOptions()).out


def _draw(pipeline: Any, scenes: list[Scene], name: str, **settings: Any) -> tuple[NDArray[np.float32], torch.Tensor]:
    """Pictures of diffusers' pipeline, [n, 64, 64, 3] in 0..1, and the noise that they begin with."""
    pipeline.set_progress_bar_config(disable=True)
    shape = load_model(name).spec.latent_shape
    noise = torch.randn(len(scenes), *shape, generator=torch.Generator().manual_seed(0))
    images = pipeline(
        [scene.caption for scene in scenes], latents=noise.clone(), num_inference_steps=STEPS,
        guidance_scale=SAMPLERS[name][1], height=64, width=64, output_type="np", **settings,
    ).images  # fmt: skip
    return images, noise


def _check(
    drawn: NDArray[np.float32], images: NDArray[np.float32], scenes: list[Scene], record: Callable[..., None]
) -> None:
    error = float(np.abs(drawn - images).max())
    record("largest difference of images", error)
    assert error <= 2 / 255
    assert np.mean(SceneChecker().satisfied(drawn.transpose(0, 3, 1, 2), scenes)) >= 0.8
