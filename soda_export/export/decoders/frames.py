"""An autoencoder of images on clips, as one program: a latent frame -> a frame of the video."""

from __future__ import annotations

from functools import cached_property

from soda_runtime.manifest import VideoFinish
from soda_runtime.signature import LATENTS
from torch import Tensor, nn

from ...models.family import pixels_per_latent
from .autoencoder import load_autoencoder
from .decoder import DECODER_NAME, DECODER_WEIGHTS_NAME, Decoder
from .image import ImageModule
from .programs import DecoderProgram
from .source import DecoderSource


class FramesModule(nn.Module):
    """[B, C, F, h, w] -> [B, F, 3, H, W] in 0..1"""

    def __init__(self, image: nn.Module) -> None:
        super().__init__()
        self.image = image

    def forward(self, *given: Tensor) -> Tensor:
        (latents,) = given
        frames: Tensor = self.image(latents.transpose(1, 2).flatten(0, 1))
        return frames.unflatten(0, (-1, latents.shape[2]))  # type: ignore[no-any-return, no-untyped-call]


class FramesDecoder(Decoder):
    """Latents [C, F, h, w] to F pictures, a call for each."""

    classes = ("AutoencoderKL",)

    def __init__(self, source: DecoderSource) -> None:
        super().__init__(source)
        source.refuse("vae", {"latents_mean": None, "latents_std": None, "out_channels": 3})

    @classmethod
    def takes(cls, source: DecoderSource) -> bool:
        """Latents of one frame are an image's."""
        return super().takes(source) and len(source.latent_shape) == 4

    @cached_property
    def finish(self) -> VideoFinish:
        """One call makes a frame; nothing is carried from one to the next."""
        _, frames, *sides = self.source.latent_shape
        height, width = (side * pixels_per_latent(self.source.config("vae")) for side in sides)
        return VideoFinish(
            DECODER_NAME, DECODER_WEIGHTS_NAME, "video", (frames, 3, height, width), self.source.frames_per_second,
            1, 1, (), (),
        )  # fmt: skip

    def module(self) -> nn.Module:
        """Of any number of frames."""
        return FramesModule(ImageModule(load_autoencoder(self.source)))

    def programs(self) -> list[DecoderProgram]:
        """One of a frame."""
        channels, _, *sides = self.source.latent_shape
        finish, given, meaning = self.finish, {LATENTS: (channels, 1, *sides)}, "a frame's latents -> the frame in 0..1"
        return [DecoderProgram(DECODER_NAME, self.module(), given, {finish.kind: (1, *finish.shape[1:])}, meaning)]
