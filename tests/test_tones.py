"""The built-in `tones`: its folder says how well it plays; its bundle makes diffusers' spectrograms, heard right."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from soda_runtime import Noise, Session
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

from soda_export.eval.judges import find_judge
from soda_export.eval.worlds import TONES, held_out_captions
from soda_export.models.load import load_model
from soda_export.models.published import BUILTIN_FOLDER
from soda_export.models.request import ModelRequest
from soda_export.options import SamplerOptions, defaults_for
from soda_export.plan.schedule import Schedule
from soda_export.workbench.pipeline import Workbench
from soda_export.workbench.stages import StageStore
from tests.text_pipelines import musicldm_pipeline

FOLDER = BUILTIN_FOLDER / TONES
SAMPLES, STEPS = 6, 25
VOCODER = SpeechT5HifiGanConfig(
    model_in_dim=64, sampling_rate=8000, upsample_initial_channel=8, upsample_rates=[8, 8, 8],
    upsample_kernel_sizes=[16] * 3, resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1]],
)  # fmt: skip


def test_the_folder_takes_at_most_16_megabytes_and_says_how_well_it_plays() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 16e6
    score = json.loads((FOLDER / "training.json").read_text())["score"]
    assert score["satisfied"] >= 0.9
    sampler, guidance = defaults_for(load_model(TONES))
    assert (sampler.name, sampler.steps, guidance) == ("ddim", score["steps"], score["guidance"])


@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
@pytest.mark.long
def test_the_all_compute_bundle_makes_the_spectrograms_of_diffusers_pipeline_and_they_are_heard_right(
    tmp_path: Path,
) -> None:
    bench = Workbench(
        ModelRequest(TONES), SamplerOptions("ddim", STEPS, 0.0, 2.0), StageStore(tmp_path / "store"), lambda *_: None
    )
    plan = bench.plan_of(Schedule.full(bench.loaded.spec, STEPS), "everything")
    captions = held_out_captions(TONES)
    assert captions is not None
    shape = bench.loaded.spec.latent_shape
    noise = torch.randn(SAMPLES, *shape, generator=torch.Generator().manual_seed(0))
    pipeline = musicldm_pipeline(FOLDER, SpeechT5HifiGan(VOCODER))  # it asks a vocoder how long a frame lasts
    latents = pipeline(
        captions[:SAMPLES], latents=noise.clone(), num_inference_steps=STEPS, guidance_scale=2.0, output_type="latent",
        audio_length_in_s=2.048,
    ).audios  # fmt: skip
    mels = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
    with Session.open(bench.build(plan, "ort", tmp_path / "bundle").out) as session:
        session.generate(prompt=captions[:SAMPLES], noise=Noise(noise.numpy()))
        made = session.images().transpose(0, 3, 1, 2)
    assert np.abs(made - (mels / 2 + 0.5).clamp(0, 1).numpy()).max() <= 1e-3
    judge = find_judge(TONES, shape)
    assert judge is not None
    assert judge.verdicts(made, range(SAMPLES)).mean() >= 0.8
