"""Which model is asked for. No torch: help pages read this."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import ModelError


@dataclass(frozen=True)
class ModelRequest:
    """Which model, and where its weights come from."""

    model: str
    """Built-in model, hub alias, owner/name of a hub repository, or path of a diffusers pipeline folder."""
    weights: Path | None = None
    """Local diffusers folder to take the weights from."""
    revision: str | None = None
    """Hub revision: branch, tag or commit. [default: main]"""
    variant: str = ""
    """Which weights, where a folder has several: fp16, non_ema. [default: those without a word in their name]"""
    random_weights: int | None = None
    """Seed: the true architecture with random weights, for latency work."""
    controlnet: tuple[str, ...] = ()
    """ControlNet that goes into the UNet's programs, several if repeated: a name that comes with the package, a local
    folder, or owner/name of a hub repository. [default: those of the pipeline folder]"""
    image_size: int | None = None
    """Side of a square image in pixels, for families of any size. [default: the pipeline's]"""
    size: tuple[str, ...] = ()
    """Height x width of images or clips in pixels, e.g. 512x768, for families of any size; build takes several, for one
    bundle of all. [default: the pipeline's]"""
    frames: int | None = None
    """Frames of a clip. [default: the pipeline's]"""
    fps: float | None = None
    """Frames per second of a clip. [default: the pipeline's]"""
    seconds: float | None = None
    """Length of a sound. [default: the pipeline's]"""
    lora: tuple[str, ...] = ()
    """LoRA to bake into the weights, FILE or FILE:STRENGTH, several if repeated. [default strength: 1]"""
    clip_skip: int | None = None
    """Layers of CLIP text encoders to do without, as diffusers' clip_skip. [default: as the pipeline does]"""

    def by_size(self) -> tuple[ModelRequest, ...]:
        """A request for each size that was asked for, in their order."""
        return tuple(replace(self, size=(size,)) for size in self.size) or (self,)


def parse_size(text: str) -> tuple[int, int]:
    """Height and width of `512x768`. Raises ModelError."""
    found = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", text)
    if found is None:
        raise ModelError(f"--size {text}: give height x width in pixels, e.g. 512x768")
    return int(found[1]), int(found[2])
