"""What a bundle makes, in the types that diffusers' pipelines give it in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from diffusers import AudioPipelineOutput, ImagePipelineOutput
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import BaseOutput
from numpy.typing import NDArray

from ..errors import RequestError

OutputType = Literal["pil", "np", "pt", "latent"]
Kind = Literal["image", "video", "audio", ""]


@dataclass
class VideoPipelineOutput(BaseOutput):  # type: ignore[misc]
    """frames: a clip a sample: lists of PIL images, or [B, frames, H, W, C] in numpy, [B, frames, C, H, W] in torch."""

    frames: Any


def check_output(output_type: str, kind: Kind) -> None:
    """Raises RequestError."""
    if output_type not in get_args(OutputType):
        raise RequestError(f"output_type {output_type!r:.40}: give one of {', '.join(get_args(OutputType))}")
    if output_type != "latent" and not kind:
        raise RequestError("the bundle has no decoder; give output_type='latent', or build it with the model's VAE")


def convert(made: NDArray[np.float32], output_type: str, kind: Kind) -> Any:
    """made: latents for `latent`, else images [B, H, W, C], a video [B, frames, H, W, C] or sound [B, C, samples]."""
    if output_type == "latent":
        return torch.from_numpy(made)
    if kind == "audio":  # pipelines of sounds know no pictures
        return torch.from_numpy(made) if output_type == "pt" else made
    if output_type == "np":
        return made
    if output_type == "pt":
        return torch.from_numpy(np.ascontiguousarray(np.moveaxis(made, -1, -3)))
    if kind == "video":
        return [VaeImageProcessor.numpy_to_pil(clip) for clip in made]
    return VaeImageProcessor.numpy_to_pil(made)


def as_output(made: Any, kind: Kind) -> Any:
    """The output of a pipeline of that kind."""
    if kind == "video":
        return VideoPipelineOutput(frames=made)
    return AudioPipelineOutput(audios=made) if kind == "audio" else ImagePipelineOutput(images=made)
