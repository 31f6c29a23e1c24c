"""The sampling loop against diffusers' own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from soda_export.eager.model import EagerModel
from soda_export.eager.sampling import Sampling, run_noise
from soda_export.sampler import freeze_sampler
from tests.eager.toys import toy_conditions, toy_dit, toy_pixart

STEPS, GUIDANCE = 8, 4.5


def loop(model: EagerModel, sampler: str, scheduler: Any) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Latents after the loop, the noise and the inputs of two samples."""
    config = {**scheduler.config, "_class_name": type(scheduler).__name__}
    learned = model.spec.prediction_shape[0] == 2 * model.spec.latent_shape[0]
    table = freeze_sampler(sampler, config, STEPS, learned_variance=learned)
    noise, _ = run_noise(5, range(2), model.spec.latent_shape, table)
    inputs = toy_conditions(model).rows(range(2), 2)
    return Sampling(model, inputs, noise, GUIDANCE, 2).run(table)[0], noise, inputs


@pytest.mark.filterwarnings("ignore")
def test_pixart_is_sampled_as_its_pipeline_does() -> None:
    from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, PixArtAlphaPipeline

    model, scheduler = toy_pixart(use_additional_conditions=False), DPMSolverMultistepScheduler()
    found, noise, inputs = loop(model, "dpm-solver++", scheduler)
    vae = AutoencoderKL(
        block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    pipeline = PixArtAlphaPipeline(None, None, vae, model.module, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    texts = {
        f"{prefix}prompt_{name}": inputs[port][half]
        for prefix, half in (("", slice(2)), ("negative_", slice(2, 4)))
        for name, port in (("embeds", "embeds"), ("attention_mask", "attention_mask"))
    }
    expected = pipeline(
        negative_prompt=None, num_inference_steps=STEPS, guidance_scale=GUIDANCE, height=16, width=16, latents=noise,
        output_type="latent", use_resolution_binning=False, **texts,
    ).images  # fmt: skip
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_dit_is_sampled_as_with_the_scheduler_of_diffusers() -> None:
    """Its pipeline gives images alone, so its loop is written out."""
    from diffusers import DDIMScheduler

    model, scheduler = toy_dit(), DDIMScheduler(clip_sample=False)
    found, noise, inputs = loop(model, "ddim", scheduler)
    scheduler.set_timesteps(STEPS)
    latents = noise
    with torch.no_grad():
        for t in scheduler.timesteps:
            output = model.module(
                torch.cat([latents, latents]), timestep=t.expand(4), class_labels=inputs["labels"]
            ).sample  # fmt: skip
            conditional, unconditional = output.chunk(2)
            guided = unconditional + GUIDANCE * (conditional - unconditional)
            latents = scheduler.step(guided, t, latents).prev_sample
    torch.testing.assert_close(found, latents, rtol=1e-4, atol=1e-4)
