"""The built-in `clips`: its folder says how well it draws; its bundle makes the clips of the plain loop, judged so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from soda_runtime import Noise, Session
from torch import Tensor
from transformers import AutoTokenizer, T5EncoderModel

from soda_export.eval.clips import FRAMES, FRAMES_PER_SECOND
from soda_export.eval.judges import find_judge
from soda_export.eval.scenes import IMAGE_SIZE
from soda_export.eval.worlds import CLIPS, held_out_captions
from soda_export.models.load import load_model
from soda_export.models.own.stdit import STDiT3
from soda_export.models.published import BUILTIN_FOLDER
from soda_export.models.request import ModelRequest
from soda_export.options import SamplerOptions, defaults_for
from soda_export.plan.schedule import Schedule
from soda_export.workbench.pipeline import Workbench
from soda_export.workbench.stages import StageStore

FOLDER = BUILTIN_FOLDER / CLIPS
SAMPLES, STEPS, GUIDANCE = 6, 30, 4.0


def test_the_folder_takes_at_most_24_megabytes_and_says_how_well_it_draws() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 24e6
    score = json.loads((FOLDER / "training.json").read_text())["score"]
    assert score["direction"] >= 0.9
    assert score["all"] >= 0.85
    loaded = load_model(CLIPS)
    sampler, guidance = defaults_for(loaded)
    assert (sampler.name, sampler.steps, guidance) == ("rflow", score["steps"], score["guidance"])
    assert loaded.spec.latent_shape == (4, FRAMES, 16, 16)


@torch.no_grad()
def plain_loop(captions: list[str], noise: Tensor) -> Tensor:
    """Frames [n, FRAMES, 3, 64, 64] in 0..1, in equal steps; half of the rows have what is learned in a text's
    place."""
    encoder, tokenizer = T5EncoderModel.from_pretrained(FOLDER / "text_encoder").eval(), FOLDER / "tokenizer"
    tokens = AutoTokenizer.from_pretrained(tokenizer)(
        captions, padding="max_length", max_length=16, return_tensors="pt"
    )
    texts = encoder(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
    model = STDiT3.from_pretrained(FOLDER / "transformer", torch_dtype=torch.float32, low_cpu_mem_usage=False).eval()
    vae = AutoencoderKL.from_pretrained(FOLDER / "vae", torch_dtype=torch.float32, low_cpu_mem_usage=False).eval()
    is_negative = torch.tensor([0.0, 1.0]).repeat_interleave(len(captions))
    latents = noise
    for step in range(STEPS):
        velocity = model(
            torch.cat([latents] * 2), torch.full((2 * len(captions),), 1000 * (1 - step / STEPS)),
            torch.cat([texts] * 2), tokens.attention_mask.repeat(2, 1), fps=FRAMES_PER_SECOND, height=IMAGE_SIZE,
            width=IMAGE_SIZE, is_negative=is_negative,
        ).sample  # fmt: skip
        told, untold = velocity.chunk(2)
        latents = latents + (untold + GUIDANCE * (told - untold)) / STEPS
    frames = vae.decode(latents.transpose(1, 2).flatten(0, 1) / vae.config.scaling_factor).sample
    return (frames / 2 + 0.5).clamp(0, 1).unflatten(0, (-1, FRAMES))


@pytest.mark.long
def test_the_all_compute_bundle_makes_the_clips_of_the_plain_loop_and_they_are_judged_right(tmp_path: Path) -> None:
    options = SamplerOptions("rflow", STEPS, 0.0, GUIDANCE)
    bench = Workbench(ModelRequest(CLIPS), options, StageStore(tmp_path / "store"), lambda *_: None)
    plan = bench.plan_of(Schedule.full(bench.loaded.spec, STEPS), "everything")
    captions = held_out_captions(CLIPS)
    assert captions is not None
    noise = torch.randn(SAMPLES, *bench.loaded.spec.latent_shape, generator=torch.Generator().manual_seed(0))
    with Session.open(bench.build(plan, "ort", tmp_path / "bundle").out) as session:
        session.generate(prompt=captions[:SAMPLES], noise=Noise(noise.numpy()))
        made = session.result().transpose(0, 1, 4, 2, 3)
    assert np.abs(made - plain_loop(captions[:SAMPLES], noise).numpy()).max() <= 1e-3
    judge = find_judge(CLIPS, bench.loaded.spec.latent_shape)
    assert judge is not None
    assert judge.verdicts(made, range(SAMPLES)).mean() >= 0.8
