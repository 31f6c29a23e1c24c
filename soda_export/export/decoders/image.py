"""The decoder half of an autoencoder of images, as one program: latents -> a picture."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

from soda_runtime.manifest import ImageFinish
from soda_runtime.signature import LATENTS
from torch import Tensor, nn

from ...errors import ModelError
from ...models.family import pixels_per_latent
from .autoencoder import load_autoencoder
from .decoder import DECODER_NAME, DECODER_WEIGHTS_NAME, Decoder
from .programs import DecoderProgram
from .source import DecoderSource


class ImageModule(nn.Module):
    """Latents as the denoiser has them -> image [B, 3 or 1, H, W] in 0..1, as diffusers' pipelines scale.

    Latents are [B, C, h, w] or, packed, [B, h/2 w/2, 4 C], two by two of each channel side by side (FluxPipeline).
    grid: h/2 and w/2 of packed ones.
    """

    def __init__(self, vae: Any, grid: tuple[int, int] = (0, 0)) -> None:
        super().__init__()
        self.grid = grid
        config = vae.config
        self.scaling, self.shift = float(config.scaling_factor), float(config.get("shift_factor") or 0.0)
        self.post_quant_conv, self.decoder = getattr(vae, "post_quant_conv", None) or nn.Identity(), vae.decoder

    def forward(self, *given: Tensor) -> Tensor:
        (latents,) = given
        if latents.ndim == 3:
            (rows, columns), channels = self.grid, latents.shape[2] // 4
            unpacked = latents.reshape(-1, rows, columns, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
            latents = unpacked.reshape(-1, channels, 2 * rows, 2 * columns)
        decoded = self.decoder(self.post_quant_conv(latents / self.scaling + self.shift))
        return (decoded / 2 + 0.5).clamp(0, 1)  # type: ignore[no-any-return]


class ImageDecoder(Decoder):
    """Latents [C, h, w], or packed, to an image."""

    classes = ("AutoencoderKL", "AutoencoderDC", "AutoencoderTiny")

    def __init__(self, source: DecoderSource) -> None:
        super().__init__(source)
        source.refuse("vae", {"latents_mean": None, "latents_std": None})
        if self._channels not in (1, 3):
            raise ModelError(f"{source.where('vae')}: out_channels={self._channels} is not supported; 1 and 3 are")

    @cached_property
    def finish(self) -> ImageFinish:
        """Channels, height and width follow from the latents' shape, or the size where they are packed."""
        shape = self.source.latent_shape
        sides = tuple(2 * side for side in self._grid) if len(shape) == 2 else shape[1:]
        height, width = (side * pixels_per_latent(self.source.config("vae")) for side in sides)
        return ImageFinish(DECODER_NAME, DECODER_WEIGHTS_NAME, "image", (self._channels, height, width))

    @property
    def _grid(self) -> tuple[int, int]:
        """Rows and columns of packed latents: a square's where no size says otherwise."""
        (height, width), tokens = self.source.size, self.source.latent_shape[0]
        rows = math.isqrt(tokens * height // width) if height else math.isqrt(tokens)
        return rows, tokens // rows

    @property
    def _channels(self) -> int:
        """3, or 1 of spectrograms without a vocoder: each row is a moment, the lowest pitch at the left."""
        return int(self.source.config("vae").get("out_channels", 3))

    def module(self) -> nn.Module:
        """The decoder half alone. Raises ModelError."""
        vae, shape = load_autoencoder(self.source), self.source.latent_shape
        channels, given = int(vae.config.latent_channels), shape[1] // 4 if len(shape) == 2 else shape[0]
        if given != channels:
            where = self.source.where("vae")
            raise ModelError(f"{where}: the decoder takes {channels} channels, the denoiser has {given}")
        return ImageModule(vae, self._grid if len(shape) == 2 else (0, 0))

    def programs(self) -> list[DecoderProgram]:
        """One of the whole picture."""
        finish, given, meaning = self.finish, {LATENTS: self.source.latent_shape}, "latents -> images in 0..1"
        return [DecoderProgram(DECODER_NAME, self.module(), given, {finish.kind: finish.shape}, meaning)]
