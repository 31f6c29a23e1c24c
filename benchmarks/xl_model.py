"""A DiT of XL width with random weights: its latencies mean something, its pictures do not."""

from __future__ import annotations

from pathlib import Path


def save_random_dit(folder: Path, layers: int) -> None:
    """A diffusers folder without an autoencoder: width 1152, 256 tokens."""
    import torch
    from diffusers import DDIMScheduler, DiTTransformer2DModel

    torch.manual_seed(0)
    model = DiTTransformer2DModel(num_layers=layers, sample_size=32, patch_size=2, in_channels=4, out_channels=8)
    model.save_pretrained(folder / "transformer")
    DDIMScheduler(clip_sample=False).save_pretrained(folder / "scheduler")
