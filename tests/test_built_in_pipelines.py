"""The built-in scenes and shapes-flux: diffusers loads their folders, and their bundles draw what diffusers draws."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from soda_runtime import Noise, Session

from soda_export.build.pipeline import Workbench
from soda_export.build.stages import StageStore
from soda_export.eval.scene_checker import SceneChecker
from soda_export.eval.scenes import held_out_prompts
from soda_export.models.load import load_model
from soda_export.models.published import BUILTIN_FOLDER
from soda_export.options import BundleOptions, SamplerOptions, defaults_for
from soda_export.plan.schedule import Schedule

STEPS = 12
SAMPLERS = {"scenes": ("ddim", 3.0), "shapes-flux": ("flow-euler", 1.0)}
EXTRA = {"scenes": {}, "shapes-flux": {"max_sequence_length": 24}}


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


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_all_compute_bundle_draws_what_diffusers_draws(
    name: str, tmp_path: Path, record_property: Callable[..., None]
) -> None:
    sampler, guidance = SAMPLERS[name]
    options = SamplerOptions(sampler, STEPS, 0.0, guidance)
    bench = Workbench(name, options, StageStore(tmp_path / "store"), lambda *_: None)
    plan = bench.plan_of(Schedule.full(bench.loaded.spec, STEPS), "everything")
    bundle = bench.build(plan, "ort", tmp_path / "bundle", BundleOptions()).out

    pipeline = diffusers.DiffusionPipeline.from_pretrained(BUILTIN_FOLDER / name)
    pipeline.set_progress_bar_config(disable=True)
    scenes = held_out_prompts(6)
    prompts = [scene.caption for scene in scenes]
    noise = torch.randn(6, *bench.loaded.spec.latent_shape, generator=torch.Generator().manual_seed(0))
    images = pipeline(
        prompts, latents=noise.clone(), num_inference_steps=STEPS, guidance_scale=guidance, height=64, width=64,
        output_type="np", **EXTRA[name],
    ).images  # fmt: skip
    with Session.open(bundle) as session:
        session.generate(prompt=prompts, noise=Noise(noise.numpy()))
        drawn = session.images()
    error = float(np.abs(drawn - images).max())
    record_property("largest difference of images", error)
    assert error <= 2 / 255
    assert np.mean(SceneChecker().satisfied(drawn.transpose(0, 3, 1, 2), scenes)) >= 0.8
