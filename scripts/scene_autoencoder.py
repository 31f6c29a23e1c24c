"""Rendered scenes -> the autoencoder that the models of scenes share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from scene_data import encode_all, render_all
from torch import Tensor
from training import optimise

from soda_export.eval.scenes import draw_scenes


def build_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(32, 64, 64), layers_per_block=1, norm_num_groups=8, latent_channels=4, sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        mid_block_add_attention=False,
    )  # fmt: skip


def train_vae(folder: Path, iterations: int) -> dict[str, Any]:
    """Reconstruction (L1 + MSE) with a slight pull to a unit Gaussian."""
    torch.manual_seed(2)
    pixels = render_all(draw_scenes(20_000, 3, held_out=False))
    vae = build_vae().to(memory_format=torch.channels_last)

    def losses() -> Iterator[Tensor]:
        while True:
            images = pixels[torch.randint(len(pixels), (32,))].float() / 127.5 - 1
            images = images.to(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                posterior = vae.encode(images).latent_dist
                decoded = vae.decode(posterior.sample()).sample.float()
            error = decoded - images
            yield error.abs().mean() + (error**2).mean() + 1e-4 * posterior.kl().mean() / 1024

    learned = optimise("vae", vae, losses(), iterations=iterations, rate=1e-3)
    vae = vae.eval()
    latents = encode_all(vae, pixels[:2000])
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    vae.to(memory_format=torch.contiguous_format).save_pretrained(folder)
    return {"scaling_factor": vae.config.scaling_factor} | learned


@torch.no_grad()
def vae_psnr(folder: Path) -> float:
    """dB of the autoencoder's pictures of scenes with unseen captions."""
    vae = AutoencoderKL.from_pretrained(folder).eval()
    held_out = render_all(draw_scenes(256, 4, held_out=True)).float() / 127.5 - 1
    decoded = vae.decode(vae.encode(held_out).latent_dist.mode()).sample
    return 10 * math.log10(4 / (decoded - held_out).pow(2).mean().item())
