"""What a schedule's error is measured of: the latents, the pixels, or what a network makes of the pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from soda_runtime.checks import sha256_of
from torch import Tensor

from ..errors import UsageError
from ..export.decoders import decoder_source, open_decoder
from ..models.load import LoadedModel
from ..networks import load_lpips, require_weights
from ..plan.plan import ObjectiveName

LATENTS: ObjectiveName = "latents"
PIXELS: ObjectiveName = "pixels"
LPIPS: ObjectiveName = "lpips"
_LPIPS_PREFIX = f"{LPIPS}:"


def mean_squares(difference: Tensor) -> list[float]:
    """Mean square of each sample's elements: [B]."""
    squares: list[float] = (difference**2).flatten(1).mean(dim=1).double().tolist()
    return squares


def _as_they_are(latents: Tensor) -> Tensor:
    return latents


def _differ(view: Tensor, other: Tensor) -> list[float]:
    return mean_squares(view - other)


class Objective(NamedTuple):
    """view: final latents [B, *latent_shape] -> what is compared, [B, ...]. squares: of two views, [B], each sample's
    squared error. network: the hash of its weights, where there is one."""

    name: ObjectiveName = LATENTS
    view: Callable[[Tensor], Tensor] = _as_they_are
    squares: Callable[[Tensor, Tensor], list[float]] = _differ
    network: str = ""


def check_objective(asked: str) -> Path:
    """Refuse what is no objective, or a file that is not there, before anything is measured. The file of weights."""
    file = Path(asked.removeprefix(_LPIPS_PREFIX))
    if asked not in (LATENTS, PIXELS) and not asked.startswith(_LPIPS_PREFIX):
        raise UsageError(f"--objective {asked}: not {LATENTS}, {PIXELS} or {_LPIPS_PREFIX}FILE")
    if asked.startswith(_LPIPS_PREFIX):
        require_weights("--objective", file)
    return file


def make_objective(asked: str, loaded: LoadedModel) -> Objective:
    """Of --objective. Raises UsageError where the model has no pixels, or the network cannot be loaded."""
    if asked == LATENTS or (asked == PIXELS and loaded.spec.output == PIXELS):
        return Objective()
    if asked == PIXELS:
        return Objective(PIXELS, _decode_with(asked, loaded))
    weights = check_objective(asked)
    distance = load_lpips(weights, "--objective")
    decode = _clip_pixels if loaded.spec.output == PIXELS else _decode_with(asked, loaded)

    def squares(view: Tensor, other: Tensor) -> list[float]:
        found: list[float] = (distance(view.numpy(), other.numpy()) ** 2).tolist()
        return found

    return Objective(LPIPS, decode, squares, sha256_of(weights))


def _clip_pixels(latents: Tensor) -> Tensor:
    """Pixels in 0..1 of a model that draws them itself."""
    return (latents / 2 + 0.5).clamp(0, 1)


def _decode_with(asked: str, loaded: LoadedModel) -> Callable[[Tensor], Tensor]:
    """Decode a sample at a time, which bounds the memory."""
    source = decoder_source(loaded)
    if source is None or source.seed is not None:
        raise UsageError(f"--objective {asked}: {loaded.spec.name} has no trained image decoder")
    if source.frames_per_second or source.seconds:
        raise UsageError(f"--objective {asked}: is for pictures; {loaded.spec.name} makes clips or sounds")
    decoder = open_decoder(source).module()

    @torch.no_grad()
    def decode(latents: Tensor) -> Tensor:
        return torch.cat([decoder(latent[None].float().cpu()) for latent in latents])

    return decode
