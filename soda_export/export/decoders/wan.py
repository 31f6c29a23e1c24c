"""Wan's video autoencoder, one latent frame a call: the caches of its causal convolutions go from call to call.

The first latent frame makes one frame, each further one as many as the temporal levels double to. diffusers'
AutoencoderKLWan keeps for each convolution the last two frames that it was given, or nothing before the first; zeros in
the place of nothing are its padding. Its temporal upsamplers do nothing in the first call and see zeros in the second.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from soda_runtime.manifest import Carry, FirstChunk, VideoFinish
from soda_runtime.signature import LATENTS, carry_in, carry_out
from torch import Tensor, nn

from ...errors import ModelError
from ...models.family import pixels_per_latent
from .autoencoder import empty_autoencoder, load_autoencoder
from .decoder import DECODER_NAME, DECODER_WEIGHTS_NAME, Decoder
from .programs import DecoderProgram
from .source import DecoderSource

FIRST_NAME = "decoder-first.onnx"


class WanChunk(nn.Module):
    """latents [B, C, 1, h, w] and each cache [B, C, 2, h, w] -> video [B, frames, 3, H, W] in 0..1, and the caches.

    The first latent frame may come without caches, and then gives none.
    """

    def __init__(self, vae: Any, first: bool) -> None:
        super().__init__()
        self._first, self._patch = first, int(vae.config.patch_size or 1)
        self._mean, self._std = (tuple(map(float, vae.config[f"latents_{name}"])) for name in ("mean", "std"))
        self.post_quant_conv, self.decoder = vae.post_quant_conv, vae.decoder
        for module in self.decoder.modules():
            if isinstance(module, nn.Upsample):
                module.mode = "nearest"  # the same as nearest-exact where sizes double, and an operator of ONNX

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """latents, then the caches in the decoder's order."""
        latents, *carried = given
        caches: list[Any] = list(carried)
        if self._first:
            caches = [None if skips or not carried else carried[i] for i, skips in enumerate(self.skipping)]
        mean, std = (torch.tensor(each).reshape(1, -1, 1, 1, 1) for each in (self._mean, self._std))
        x = self.post_quant_conv(latents / (1.0 / std) + mean)
        made = self.decoder(x, feat_cache=caches, feat_idx=[0], first_chunk=self._first)
        made = _unpatchify(made, self._patch).clamp(-1.0, 1.0)
        handed = [old if isinstance(new, str) else new for old, new in zip(carried, caches, strict=bool(carried))]
        return ((made / 2 + 0.5).clamp(0, 1).permute(0, 2, 1, 3, 4), *handed)

    @cached_property
    def skipping(self) -> tuple[bool, ...]:
        """Of each cache whether it is a temporal upsampler's, which the first call leaves alone."""
        return tuple(
            name.endswith("time_conv") for name, module in self.decoder.named_modules() if _is_cached(name, module)
        )


class WanVideo(nn.Module):
    """All latents [B, C, F, h, w] -> video [B, frames, 3, H, W] in 0..1, chunk by chunk."""

    def __init__(self, vae: Any, carry: tuple[Carry, ...]) -> None:
        super().__init__()
        self._chunks, self._shapes = (WanChunk(vae, True), WanChunk(vae, False)), [each.shape for each in carry]

    def forward(self, latents: Tensor) -> Tensor:
        """Whatever number of latent frames."""
        caches = [latents.new_zeros(len(latents), *shape) for shape in self._shapes]
        made = []
        for frame in range(latents.shape[2]):
            piece, *caches = self._chunks[min(frame, 1)](latents[:, :, frame : frame + 1], *caches)
            made.append(piece)
        return torch.cat(made, dim=1)


class WanDecoder(Decoder):
    """Latents [C, F, h, w] to a video."""

    classes = ("AutoencoderKLWan",)

    def __init__(self, source: DecoderSource) -> None:
        super().__init__(source)
        config = source.config("vae")
        source.refuse("vae", {"out_channels": 3 * int(config.get("patch_size") or 1) ** 2})
        channels = int(config.get("z_dim", 16))
        if len(source.latent_shape) != 4 or source.latent_shape[0] != channels:
            given = list(source.latent_shape)
            raise ModelError(f"{source.where('vae')}: the decoder takes {channels} channels, the denoiser has {given}")

    @cached_property
    def finish(self) -> VideoFinish:
        """Sizes follow from the latents', caches from a run of the decoder without weights."""
        _, frames, *sides = self.source.latent_shape
        height, width = (side * pixels_per_latent(self.source.config("vae")) for side in sides)
        per_latent, carry = self._measured
        shape = (1 + (frames - 1) * per_latent, 3, height, width)
        rate = self.source.frames_per_second
        if frames == 1:
            return VideoFinish(DECODER_NAME, DECODER_WEIGHTS_NAME, "video", shape, rate, 1, 1, (), ())
        first = FirstChunk(FIRST_NAME, 1, 1)
        return VideoFinish(DECODER_NAME, DECODER_WEIGHTS_NAME, "video", shape, rate, 1, per_latent, (first,), carry)

    @cached_property
    def _measured(self) -> tuple[int, tuple[Carry, ...]]:
        """Frames that a latent frame after the first makes, and what calls carry."""
        channels, _, *sides = self.source.latent_shape
        vae = empty_autoencoder(self.source)
        count = sum(_is_cached(name, module) for name, module in vae.decoder.named_modules())
        caches: list[Any] = [None] * count
        x = torch.empty(1, channels, 1, *sides, device="meta")
        with torch.no_grad():
            for first in (True, False):
                made = vae.decoder(x, feat_cache=caches, feat_idx=[0], first_chunk=first)
        carry = [Carry(f"cache.{i}", "float32", tuple(cache.shape[1:])) for i, cache in enumerate(caches)]
        return int(made.shape[2]), tuple(carry)

    def module(self) -> nn.Module:
        """All of a clip at once, of any length. Raises ModelError."""
        return WanVideo(load_autoencoder(self.source), self._measured[1]).eval()

    def programs(self) -> list[DecoderProgram]:
        """One for the first latent frame and one for the others."""
        finish, vae = self.finish, load_autoencoder(self.source)
        channels, _, *sides = self.source.latent_shape
        taken = {LATENTS: (channels, 1, *sides)} | {carry_in(each.name): each.shape for each in finish.carry}
        handed = {carry_out(each.name): each.shape for each in finish.carry}

        def program(file: str, frames: int, first: bool) -> DecoderProgram:
            made = {finish.kind: (frames, *finish.shape[1:])} | handed
            return DecoderProgram(file, WanChunk(vae, first).eval(), taken, made, "a latent frame -> frames in 0..1")

        firsts = [program(each.file, each.frames, True) for each in finish.first]
        return [*firsts, program(finish.file, finish.frames, not finish.first)]


def _is_cached(name: str, module: nn.Module) -> bool:
    """Whether the decoder keeps what a convolution was given: all but shortcuts are causal over three frames."""
    return isinstance(module, nn.Conv3d) and not name.endswith("conv_shortcut")


def _unpatchify(x: Tensor, patch: int) -> Tensor:
    """[B, 3 patch^2, F, h, w] -> [B, 3, F, patch h, patch w], as diffusers' unpatchify lays it out."""
    if patch == 1:
        return x
    _, channels, frames, height, width = x.shape
    grid = x.reshape(-1, channels // patch**2, patch, patch, frames, height, width).permute(0, 1, 4, 5, 3, 6, 2)
    return grid.reshape(-1, channels // patch**2, frames, height * patch, width * patch)
