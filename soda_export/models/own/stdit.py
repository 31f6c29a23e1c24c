"""STDiT3, the denoiser of Open-Sora 1.2 (Zheng et al. 2024, arXiv 2412.20404), in the manner of diffusers' models.

A layer is a spatial block, whose attention is among the tokens of a frame, and a temporal block, whose attention is
among the frames of a place. Parameters have the names of the hub's hpcai-tech/OpenSora-STDiT-v3.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor, nn
from torch.nn.functional import pad

from .stdit_blocks import Block, FeedForward
from .stdit_positions import FrameRotation, place_embedding

_FREQUENCIES = 256  # of the embedding of a timestep or frame rate
_MASKED = -10000.0  # beside logits, as diffusers masks texts


class _Patches(nn.Module):
    def __init__(self, channels: int, width: int, patch: tuple[int, ...]) -> None:
        super().__init__()
        self.proj = nn.Conv3d(channels, width, kernel_size=patch, stride=patch)  # type: ignore[arg-type]


class _NumberEmbedding(nn.Module):
    """A number [R] -> [R, D]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, number: Tensor) -> Tensor:
        waves = get_timestep_embedding(number, _FREQUENCIES, flip_sin_to_cos=True, downscale_freq_shift=0)
        output: Tensor = self.mlp(waves.to(self.mlp[0].weight.dtype))
        return output


class _TextEmbedding(nn.Module):
    """Texts, and what stands for one in rows that guidance steers away from."""

    def __init__(self, channels: int, width: int, tokens: int) -> None:
        super().__init__()
        self.y_embedding = nn.Parameter(torch.randn(tokens, channels) / channels**0.5)
        self.y_proj = FeedForward(channels, width, width)

    def forward(self, text: Tensor, is_negative: Tensor | None) -> Tensor:
        if is_negative is not None:
            text = torch.where(is_negative[:, None, None] > 0, self.y_embedding.to(text.dtype), text)
        output: Tensor = self.y_proj(text)
        return output


class _Final(nn.Module):
    def __init__(self, width: int, given: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.linear = nn.Linear(width, given)
        self.scale_shift_table = nn.Parameter(torch.randn(2, width) / width**0.5)

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        shift, scale = (self.scale_shift_table[None] + embedded[:, None]).chunk(2, dim=1)
        output: Tensor = self.linear(self.norm_final(x) * (1 + scale) + shift)
        return output


class STDiT3(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """The denoiser. Settings are those of the hub's configuration."""

    idle_settings: ClassVar[dict[str, Any]] = {
        "model_type": "STDiT3", "architectures": None, "auto_map": None, "torch_dtype": None, "dtype": None,
        "transformers_version": None, "class_dropout_prob": None, "drop_path": None, "enable_flash_attn": None,
        "enable_layernorm_kernel": None, "enable_sequence_parallelism": None, "only_train_temporal": None,
        "freeze_y_embedder": None, "input_size": None, "skip_y_embedder": False,
    }  # fmt: skip
    """Of the hub's configuration -> the value that is allowed, None for any: they say how it trains or on what it
    runs."""

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        in_channels: int = 4,
        patch_size: tuple[int, ...] = (1, 2, 2),
        hidden_size: int = 1152,
        depth: int = 28,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        pred_sigma: bool = True,
        caption_channels: int = 4096,
        model_max_length: int = 300,
        qk_norm: bool = True,
        input_sq_size: int = 512,
    ) -> None:
        """pred_sigma: whether it gives twice the channels. input_sq_size: side in pixels that places are told by."""
        super().__init__()
        width, patch = hidden_size, tuple(patch_size)
        self.x_embedder = _Patches(in_channels, width, patch)
        self.t_embedder, self.fps_embedder = _NumberEmbedding(width), _NumberEmbedding(width)
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.y_embedder = _TextEmbedding(caption_channels, width, model_max_length)
        inner = int(width * mlp_ratio)
        self.spatial_blocks = nn.ModuleList(Block(width, num_heads, inner, qk_norm, False) for _ in range(depth))
        self.temporal_blocks = nn.ModuleList(Block(width, num_heads, inner, qk_norm, True) for _ in range(depth))
        self.rope = FrameRotation(width // num_heads)
        patch_elements = patch[0] * patch[1] * patch[2]
        self.final_layer = _Final(width, patch_elements * in_channels * (1 + pred_sigma))

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        fps: Tensor | float = 24.0,
        height: Tensor | float = 512.0,
        width: Tensor | float = 512.0,
        is_negative: Tensor | None = None,
        return_dict: bool = True,
    ) -> Any:
        """The velocity (x0 - noise) [R, C, T, H, W], with pred_sigma 2C, of which no sampler reads the second half.

        hidden_states: latents [R, C, T, H, W]. timestep: [R], 0 .. 1000, 1000 is noise. encoder_hidden_states: T5's
        [R, L, W]; encoder_attention_mask: [R, L], 1 = attend. fps: frames a second. height, width: of all videos, in
        pixels. is_negative: [R], 1 where the learned embedding stands in the place of the text.
        """
        config: Any = self.config
        sizes, patch = hidden_states.shape[2:], tuple(config.patch_size)
        missing = [-size % side for size, side in zip(sizes, patch, strict=True)]
        frames, rows, columns = grid = [(n + m) // side for n, m, side in zip(sizes, missing, patch, strict=True)]
        weight = self.x_embedder.proj.weight
        if any(missing):
            hidden_states = pad(hidden_states, [0, missing[2], 0, missing[1], 0, missing[0]])
        x = self.x_embedder.proj(hidden_states.to(weight.dtype)).flatten(2).transpose(1, 2)  # [R, T*S, D]

        high, wide = (torch.as_tensor(n, device=x.device).reshape(-1)[:1].float() for n in (height, width))
        places = place_embedding(rows, columns, config.hidden_size, (high * wide).sqrt() / config.input_sq_size)
        x = x + places.to(x.dtype).repeat(frames, 1)

        rate = torch.as_tensor(fps, device=x.device).reshape(-1).float()
        embedded = self.t_embedder(timestep) + self.fps_embedder(rate)  # [R, D]
        modulation = self.t_block(embedded).unflatten(1, (6, -1))
        text = self.y_embedder(encoder_hidden_states.to(weight.dtype), is_negative)
        mask = None
        if encoder_attention_mask is not None:
            mask = (1 - encoder_attention_mask.to(x.dtype))[:, None, None] * _MASKED  # [R, 1, 1, L]

        turn = self.rope(frames)
        for spatial, temporal in zip(self.spatial_blocks, self.temporal_blocks, strict=True):
            x = spatial(x, modulation, text, mask, frames, turn)
            x = temporal(x, modulation, text, mask, frames, turn)
        output = _unpatched(self.final_layer(x, embedded), grid, patch)[:, :, : sizes[0], : sizes[1], : sizes[2]]
        return Transformer2DModelOutput(sample=output) if return_dict else (output,)


def _unpatched(x: Tensor, grid: list[int], patch: tuple[int, ...]) -> Tensor:
    """[R, N, patch * C] -> [R, C, T, H, W]"""
    x = torch.unflatten(torch.unflatten(x, 2, (*patch, -1)), 1, grid)  # [R, t, h, w, pt, ph, pw, C]
    return x.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)
