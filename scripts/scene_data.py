"""Scenes -> what the models of scenes learn from: pixels, latents, and what the captions say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from training import WORK_FOLDER

from soda_export.eval.scenes import COLOURS, SHAPES, SIZES, Scene, draw_scenes, render

PLACES = ("top", "bottom", "left", "right", "centre")
_STANDS = {
    "above": ("top", "bottom"), "below": ("bottom", "top"), "to the left of": ("left", "right"),
    "to the right of": ("right", "left"), "": ("centre",),
}  # fmt: skip
"""Relation -> where the first and the second object stand."""
CLASSES = (1 + len(COLOURS), 1 + len(SHAPES), 1 + len(SIZES))
"""What can be said of a place: nothing, or one of the words."""


def training_scenes() -> list[Scene]:
    """The scenes that every denoiser learns from; no caption of theirs is held out."""
    return draw_scenes(60_000, 5, held_out=False)


def number_captions(scenes: list[Scene]) -> tuple[list[str], Tensor]:
    """The different captions, the empty one first, and each scene's place among them."""
    captions = ["", *dict.fromkeys(scene.caption for scene in scenes)]
    numbers = {caption: number for number, caption in enumerate(captions)}
    return captions, torch.tensor([numbers[scene.caption] for scene in scenes])


def render_all(scenes: list[Scene]) -> Tensor:
    """Scenes -> uint8 [n, 3, 64, 64]."""
    return torch.stack([torch.from_numpy((render(scene) * 255).round().astype(np.uint8)) for scene in scenes])


@torch.no_grad()
def encode_all(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """uint8 [n, 3, 64, 64] -> means of the latents [n, 4, 16, 16]."""
    latents = []
    for part in pixels.split(100):
        images = (part.float() / 127.5 - 1).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            latents.append(vae.encode(images).latent_dist.mode().float())
    return torch.cat(latents).contiguous()


def training_latents(vae_folder: Path) -> tuple[list[Scene], Tensor]:
    """The training scenes and their latents [n, 4, 16, 16], scaled to unit variance; kept in build/train."""
    scenes, cache = training_scenes(), WORK_FOLDER / "latents.pt"
    if not cache.is_file():
        vae = AutoencoderKL.from_pretrained(vae_folder).eval().to(memory_format=torch.channels_last)
        latents = torch.cat([
            encode_all(vae, render_all(scenes[i : i + 5000])) for i in range(0, len(scenes), 5000)
        ]) * vae.config.scaling_factor  # fmt: skip
        cache.parent.mkdir(parents=True, exist_ok=True)
        torch.save(latents, cache)
    latents = torch.load(cache, weights_only=True)
    print(f"latents: {tuple(latents.shape)}, std {latents.std():.3f}, mean {latents.mean():.3f}", flush=True)
    return scenes, latents


def read_captions(scenes: list[Scene]) -> Tensor:
    """What captions say: int64 [n, 5 places, 3] of colour, shape and size, 0 for nothing or unsaid."""
    said = torch.zeros(len(scenes), len(PLACES), 3, dtype=torch.int64)
    for i, scene in enumerate(scenes):
        for thing, place in zip(scene.things, _STANDS[scene.relation], strict=True):
            size = 1 + list(SIZES).index(thing.size) if thing.said_size else 0
            words = (1 + list(COLOURS).index(thing.colour), 1 + SHAPES.index(thing.shape), size)
            said[i, PLACES.index(place)] = torch.tensor(words)
    return said
