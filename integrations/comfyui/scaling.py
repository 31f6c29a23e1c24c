"""From a model's latents to those of ComfyUI's LATENT, which are what an autoencoder takes, and back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from soda_runtime import Bundle
from soda_runtime.sizes import Size
from torch import Tensor

RECORD = "denoiser.json"


@dataclass(frozen=True)
class Scaling:
    """raw = latents / scale + shift, per channel [C] or the same for all. shape: of a sample as the model takes it;
    packed latents, [tokens, 4 C], are [C, h, w] in a LATENT."""

    scale: Tensor
    shift: Tensor
    shape: tuple[int, ...]
    sides: tuple[int, int]

    def to_comfy(self, latents: Tensor) -> Tensor:
        """[B, *shape] -> [B, C, ...]."""
        if len(self.shape) == 2:
            rows, columns = self.sides
            parts = latents.reshape(-1, rows // 2, columns // 2, self.shape[1] // 4, 2, 2)
            latents = parts.permute(0, 3, 1, 4, 2, 5).reshape(len(latents), -1, rows, columns)
        return latents / self._along(self.scale, latents) + self._along(self.shift, latents)

    def to_model(self, raw: Tensor) -> Tensor:
        """[B, C, ...] -> [B, *shape]; noise is given with `pack` alone."""
        return self.pack((raw - self._along(self.shift, raw)) * self._along(self.scale, raw))

    def pack(self, latents: Tensor) -> Tensor:
        """[B, C, ...] -> [B, *shape]."""
        if len(self.shape) != 2:
            return latents
        samples, channels, rows, columns = latents.shape
        parts = latents.reshape(samples, channels, rows // 2, 2, columns // 2, 2)
        return parts.permute(0, 2, 4, 1, 3, 5).reshape(samples, -1, 4 * channels)

    @property
    def unpacked(self) -> tuple[int, ...]:
        """Shape of a sample in a LATENT."""
        return (self.shape[1] // 4, *self.sides) if len(self.shape) == 2 else self.shape

    @staticmethod
    def _along(values: Tensor, latents: Tensor) -> Tensor:
        return values.reshape(-1, *[1] * (latents.dim() - 2)).to(latents)


def read_scalings(bundle: Bundle) -> dict[Size | None, Scaling]:
    """Of each size of a bundle, of None where it names none; latents stay as they are where it does not say what its
    autoencoder is."""
    path, found = bundle.folder / RECORD, dict[Size | None, Scaling]()
    record: dict[str, Any] = json.loads(path.read_bytes()) if RECORD in bundle.manifest.files else {}
    for size in bundle.sizes or (None,):
        own = record if size is None else {**record, "size": {"height": size[0], "width": size[1]}}
        found[size] = scaling_of(own, tuple(bundle.at(size).manifest.model.latent_shape))
    return found


def scaling_of(record: dict[str, Any], shape: tuple[int, ...]) -> Scaling:
    """record: of denoiser.json, {} without. Autoencoders of video have a mean and a deviation for each channel."""
    vae = record.get("parts", {}).get("vae") or {}
    scale = torch.tensor([float(vae.get("scaling_factor") or 1.0)])
    shift = torch.tensor([float(vae.get("shift_factor") or 0.0)])
    if vae.get("latents_std"):
        scale, shift = 1.0 / torch.tensor(vae["latents_std"]), torch.tensor(vae["latents_mean"])
    side = isqrt(shape[0]) if len(shape) == 2 else 0
    size = record.get("size") or {}
    rows = isqrt(shape[0] * size["height"] // size["width"]) if side and size.get("width") else side
    return Scaling(scale, shift, shape, (2 * rows, 2 * (shape[0] // rows)) if rows else (0, 0))
