"""The built-in scenes model: diffusers loads its folder unchanged, and its bundle draws what diffusers draws."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

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

FOLDER = BUILTIN_FOLDER / "scenes"


def test_the_pipeline_folder_takes_at_most_16_megabytes_and_says_how_well_it_draws() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 16e6
    assert json.loads((FOLDER / "training.json").read_text())["score"]["satisfied"] >= 0.85


def test_no_path_of_another_machine_is_in_a_built_in_model() -> None:
    for path in BUILTIN_FOLDER.rglob("*.json"):
        assert '"_name_or_path": "/' not in path.read_text(), path


def test_its_defaults_are_those_it_was_judged_with() -> None:
    sampler, guidance = defaults_for(load_model("scenes"))
    assert (sampler.name, sampler.steps, guidance) == ("ddim", 25, 3.0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything computed at every one of 12 steps."""
    root = tmp_path_factory.mktemp("scenes")
    bench = Workbench("scenes", SamplerOptions("ddim", 12, 0.0, 3.0), StageStore(root / "store"), lambda *_: None)
    plan = bench.plan_of(Schedule.full(bench.loaded.spec, 12), "everything")
    return bench.build(plan, "ort", root / "bundle", BundleOptions()).out


def test_the_all_compute_bundle_draws_what_diffusers_draws(
    bundle: Path, record_property: Callable[..., None]
) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(FOLDER)
    pipeline.set_progress_bar_config(disable=True)
    scenes = held_out_prompts(6)
    prompts = [scene.caption for scene in scenes]
    noise = torch.randn(6, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    settings = {"num_inference_steps": 12, "guidance_scale": 3.0, "height": 64, "width": 64, "output_type": "np"}
    images = pipeline(prompts, latents=noise.clone(), **settings).images
    with Session.open(bundle) as session:
        session.generate(prompt=prompts, noise=Noise(noise.numpy()))
        drawn = session.images()
    error = float(np.abs(drawn - images).max())
    record_property("largest difference of images", error)
    assert error <= 2 / 255
    assert np.mean(SceneChecker().satisfied(drawn.transpose(0, 3, 1, 2), scenes)) >= 0.8
