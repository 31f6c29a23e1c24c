"""What families share whose latents are an image, a square unless the user says otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import ModelError
from ..family import Sizes


def sized_latents(sizes: Sizes) -> tuple[int, ...]:
    """[C, h, w] of the size that was asked for, else of the configuration's square."""
    return (sizes.config["in_channels"], *sizes.latent_sides(sizes.config["sample_size"]))


def sized_prediction(sizes: Sizes) -> tuple[int, ...]:
    """[C or 2C, h, w]"""
    channels, *rest = sizes.latent_shape
    return (sizes.config["out_channels"] or channels, *rest)


def check_patches(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse latents that patches do not tile."""
    if config["sample_size"] % config["patch_size"]:
        sizes = f"sample_size={config['sample_size']}, patch_size={config['patch_size']}"
        raise ModelError(f"{path}: {sizes}: the first must be a multiple of the second")


def check_square(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse outputs that are not a prediction of the latents alone, or with a variance."""
    check_patches(path, config)
    channels, predicted = config["in_channels"], config["out_channels"] or config["in_channels"]
    if predicted not in (channels, 2 * channels):
        raise ModelError(f"{path}: out_channels={predicted} is neither in_channels={channels} nor twice as many")
