"""Open-Sora 1.2's decoder: 5 latent frames -> 17 frames of an image autoencoder's latents -> pictures.

Names of weights are those of the hub's hpcai-tech/OpenSora-VAE-v1.2. The temporal half follows MAGVIT-v2 (Yu et al.
2023, arXiv 2310.05737): convolutions see no later frame, and a frame becomes two by channels that turn into frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import conv3d, pad, silu

FRAMES_PER_LATENT = 4
_SPATIAL_SCALE = 0.18215  # of the image autoencoder's latents, whatever its configuration says
_SDXL = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4, "norm_num_groups": 32,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4, "sample_size": 512,
}  # fmt: skip
_KINDS = (1, 2, 2, 4)  # widths of the levels, in `filters`
_DOUBLES = (False, True, True)  # the level above which the number of frames doubles


class CausalConv3d(nn.Module):
    """A 3-D convolution that pads with zeros: in time on the left alone."""

    def __init__(self, taken: int, given: int, kernel: int, bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv3d(taken, given, kernel, bias=bias)
        half = kernel // 2
        self._padding = (half, half, half, half, kernel - 1, 0)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.conv.weight, self.conv.bias
        if bias is None:  # the ONNX exporter's zeros for none have a wrong shape
            bias = torch.zeros(weight.shape[0])
        return conv3d(pad(x, self._padding), weight, bias)


class _ResBlock(nn.Module):
    def __init__(self, taken: int, given: int, groups: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, taken), CausalConv3d(taken, given, 3, bias=False)
        self.norm2, self.conv2 = nn.GroupNorm(groups, given), CausalConv3d(given, given, 3, bias=False)
        self.conv3 = CausalConv3d(taken, given, 1, bias=False) if taken != given else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv2(silu(self.norm2(self.conv1(silu(self.norm1(x))))))
        output: Tensor = self.conv3(x) + inner
        return output


class _TemporalDecoder(nn.Module):
    """[B, C, F, h, w] -> [B, C, 4 F, h, w]"""

    def __init__(self, channels: int, filters: int, num_res_blocks: int, num_groups: int) -> None:
        super().__init__()
        widths = [filters * factor for factor in _KINDS]
        self.conv1 = CausalConv3d(channels, widths[-1], 3)
        self.res_blocks = nn.ModuleList(_ResBlock(widths[-1], widths[-1], num_groups) for _ in range(num_res_blocks))
        above = [*widths[1:], widths[-1]]  # what each level is given
        self.block_res_blocks = nn.ModuleList(
            nn.ModuleList(_ResBlock(given if k == 0 else own, own, num_groups) for k in range(num_res_blocks))
            for own, given in zip(widths, above, strict=True)
        )
        self.conv_blocks = nn.ModuleList(
            CausalConv3d(width, 2 * width, 3) if doubles else nn.Identity()
            for width, doubles in zip(widths[1:], _DOUBLES, strict=True)
        )
        self.norm1, self.conv_out = nn.GroupNorm(num_groups, widths[0]), CausalConv3d(widths[0], channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for block in self.res_blocks:
            x = block(x)
        for level in range(len(_KINDS) - 1, -1, -1):
            for block in self.block_res_blocks[level]:  # type: ignore[attr-defined, union-attr]
                x = block(x)
            if level and _DOUBLES[level - 1]:
                x = torch.unflatten(self.conv_blocks[level - 1](x), 1, (-1, 2))  # [B, C, 2, F, h, w]
                x = x.transpose(2, 3).flatten(2, 3)
        output: Tensor = self.conv_out(silu(self.norm1(x)))
        return output


class OpenSoraDecoder(nn.Module):
    """One chunk's latents as the denoiser has them [B, 4, F, h, w] -> frames [B, 4 F - 3, 3, H, W] in 0..1.

    config: the hub's; `spatial` and `temporal`, which it lacks, are settings of an AutoencoderKL and of
    the temporal half (filters, num_res_blocks, num_groups) other than the published ones.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        from diffusers import AutoencoderKL

        image = AutoencoderKL(**{**_SDXL, **config.get("spatial", {})})
        del image.encoder, image.quant_conv
        temporal = {"filters": 128, "num_res_blocks": 4, "num_groups": 32, **config.get("temporal", {})}
        channels = image.config.latent_channels
        self.spatial_vae, self.temporal_vae = nn.Module(), nn.Module()
        self.spatial_vae.module = image
        self.temporal_vae.post_quant_conv = CausalConv3d(channels, channels, 1)
        self.temporal_vae.decoder = _TemporalDecoder(channels, **temporal)
        self._scale, self._shift = tuple(config["scale"]), tuple(config["shift"])

    @property
    def temporal(self) -> TemporalHalf:
        """The half before the image autoencoder, with this one's weights."""
        return TemporalHalf(self.temporal_vae, self._scale, self._shift)

    @property
    def spatial(self) -> SpatialHalf:
        """The image autoencoder, with this one's weights."""
        return SpatialHalf(self.spatial_vae)

    def forward(self, latents: Tensor) -> Tensor:
        frames = self.temporal(latents).unbind(2)
        return torch.stack([self.spatial(frame) for frame in frames], dim=1)


class TemporalHalf(nn.Module):
    """[B, 4, F, h, w] -> the latents of an image autoencoder, [B, 4, 4 F - 3, h, w]"""

    def __init__(self, temporal_vae: nn.Module, scale: Sequence[float], shift: Sequence[float]) -> None:
        super().__init__()
        self.temporal_vae, self._scale, self._shift = temporal_vae, scale, shift

    def forward(self, *given: Tensor) -> Tensor:
        (latents,), vae = given, cast(Any, self.temporal_vae)
        frames: Tensor = vae.decoder(vae.post_quant_conv(latents * _by_channel(self._scale) + _by_channel(self._shift)))
        return frames[:, :, FRAMES_PER_LATENT - 1 :]


class SpatialHalf(nn.Module):
    """One frame's latents [B, 4, h, w] -> the frame [B, 3, H, W] in 0..1"""

    def __init__(self, spatial_vae: nn.Module) -> None:
        super().__init__()
        self.spatial_vae = spatial_vae

    def forward(self, *given: Tensor) -> Tensor:
        (frame,), image = given, cast(Any, self.spatial_vae.module)
        picture: Tensor = image.decoder(image.post_quant_conv(frame / _SPATIAL_SCALE))
        return (picture / 2 + 0.5).clamp(0, 1)


def _by_channel(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(1, -1, 1, 1, 1)
