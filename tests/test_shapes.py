"""The built-in shapes model: diffusers loads its folder unchanged, and its bundle draws what diffusers draws."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from soda_runtime import Noise, Session

from soda_export.eval.scene_checker import SceneChecker
from soda_export.eval.scenes import draw_scenes, held_out_prompts, is_held_out, render
from soda_export.models.origin import BUILTIN_FOLDER
from soda_export.options import BundleOptions, SamplerOptions
from soda_export.plan.schedule import Schedule
from soda_export.workbench.pipeline import Workbench
from soda_export.workbench.stages import StageStore

FOLDER = BUILTIN_FOLDER / "shapes"
STEPS, GUIDANCE = 20, 7.0


def test_the_pipeline_folder_takes_at_most_24_megabytes() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 24e6


def test_the_checker_reads_scenes_with_unseen_captions() -> None:
    scenes = draw_scenes(500, 7, held_out=True)
    satisfied = SceneChecker().satisfied(np.stack([render(scene) for scene in scenes]), scenes)
    assert np.mean(satisfied) >= 0.98


def test_the_checker_refuses_a_scene_that_shows_something_else() -> None:
    scenes = draw_scenes(200, 8, held_out=True)
    others = [*scenes[1:], scenes[0]]
    pairs = [(scene, other) for scene, other in zip(scenes, others, strict=True) if scene.caption != other.caption]
    satisfied = SceneChecker().satisfied(np.stack([render(other) for _, other in pairs]), [scene for scene, _ in pairs])
    assert np.mean(satisfied) <= 0.02


def test_held_out_prompts_differ_and_were_kept_out_of_training() -> None:
    captions = [scene.caption for scene in held_out_prompts(200)]
    assert len(set(captions)) == 200
    assert all(is_held_out(caption) for caption in captions)
    assert not any(is_held_out(scene.caption) for scene in draw_scenes(200, 5, held_out=False))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything computed at every step."""
    root = tmp_path_factory.mktemp("shapes")
    options = SamplerOptions("dpm-solver++", STEPS, 0.0, GUIDANCE)
    bench = Workbench("shapes", options, StageStore(root / "store"), lambda *_: None)
    spec = bench.loaded.spec
    plan = bench.plan_of(Schedule.full(spec, STEPS), "everything")
    return bench.build(plan, "ort", root / "bundle", BundleOptions()).out


def test_the_all_compute_bundle_draws_what_diffusers_draws(
    bundle: Path, record_property: Callable[..., None]
) -> None:
    from diffusers import PixArtAlphaPipeline

    pipeline = PixArtAlphaPipeline.from_pretrained(FOLDER)
    pipeline.set_progress_bar_config(disable=True)
    prompts = [scene.caption for scene in held_out_prompts(8)]
    noise = torch.randn(8, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    settings = {
        "num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "use_resolution_binning": False,
        "clean_caption": False, "max_sequence_length": 24,
    }  # fmt: skip
    seen: dict[str, torch.Tensor] = {}

    def keep(_step: int, _timestep: torch.Tensor, latents: torch.Tensor) -> None:
        seen["latents"] = latents

    images = pipeline(prompts, latents=noise.clone(), output_type="np", callback=keep, callback_steps=1, **settings)
    session = Session.open(bundle)
    latents = session.generate(prompt=prompts, noise=Noise(noise.numpy()))
    latent_error = float(np.abs(latents - seen["latents"].numpy()).max())
    image_error = float(np.abs(session.images() - images.images).max())
    record_property("largest difference of latents", latent_error)
    record_property("largest difference of images", image_error)
    print(f"shapes against diffusers: latents {latent_error:.1e}, images {255 * image_error:.3f}/255")
    assert latent_error <= 2e-3
    assert image_error <= 2 / 255
