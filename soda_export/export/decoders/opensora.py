"""Open-Sora's decoder as one program: a chunk's latents -> its frames, pictures one after the other."""

from __future__ import annotations

from functools import cached_property

import torch
from soda_runtime.manifest import VideoFinish
from soda_runtime.signature import LATENTS
from torch import nn

from ...errors import ModelError
from ...models.family import pixels_per_latent
from ...models.own.opensora_vae import FRAMES_PER_LATENT, OpenSoraDecoder
from .decoder import DECODER_NAME, DECODER_WEIGHTS_NAME, Decoder
from .filled import filled
from .programs import DecoderProgram
from .source import DecoderSource

_CHUNK = 5  # latent frames; a single one is a picture


class OpenSoraVideoDecoder(Decoder):
    """Latents [4, F, h, w], F a multiple of 5 or 1, to a clip of 17 frames for each 5 latent ones."""

    classes = ("VideoAutoencoderPipeline",)

    def __init__(self, source: DecoderSource) -> None:
        super().__init__(source)
        source.refuse("vae", {"micro_frame_size": 17, "cal_loss": False})
        for name in ("scale", "shift"):
            if len(source.config("vae").get(name, ())) != source.latent_shape[0]:
                raise ModelError(f"{source.where('vae')}: {name} needs a number for each of the latents' channels")

    @cached_property
    def finish(self) -> VideoFinish:
        """One call makes a chunk; nothing is carried from one to the next."""
        _, total, *sides = self.source.latent_shape
        latents = min(total, _CHUNK)
        frames = FRAMES_PER_LATENT * latents - (FRAMES_PER_LATENT - 1)
        height, width = (side * pixels_per_latent(self.source.config("vae")) for side in sides)
        return VideoFinish(
            DECODER_NAME, DECODER_WEIGHTS_NAME, "video", (total // latents * frames, 3, height, width),
            self.source.frames_per_second, latents, frames, (), (),
        )  # fmt: skip

    def module(self) -> nn.Module:
        """All chunks one after the other."""
        return _Chunks(self._chunk(), self.finish.latent_frames)

    def programs(self) -> list[DecoderProgram]:
        """One of a chunk."""
        finish, chunk = self.finish, self._chunk()
        channels, _, *sides = self.source.latent_shape
        given, made = {LATENTS: (channels, finish.latent_frames, *sides)}, (finish.frames, *finish.shape[1:])
        meaning = "a chunk's latents -> its frames in 0..1"
        return [DecoderProgram(DECODER_NAME, chunk.temporal, given, {finish.kind: made}, meaning, chunk.spatial)]

    def _chunk(self) -> OpenSoraDecoder:
        config = self.source.config("vae")
        return filled(self.source, "vae", lambda: OpenSoraDecoder(config))


class _Chunks(nn.Module):
    def __init__(self, chunk: nn.Module, latents: int) -> None:
        super().__init__()
        self.chunk, self._latents = chunk, latents

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """[B, C, F, h, w] -> [B, frames, 3, H, W]"""
        return torch.cat([self.chunk(part) for part in torch.split(latents, self._latents, 2)], dim=1)
