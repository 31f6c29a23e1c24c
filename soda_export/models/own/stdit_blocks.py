"""Blocks of STDiT3 (stdit.py): attention within a frame or among the frames of a place, attention to the text, MLP."""

from __future__ import annotations

import torch
from diffusers.models.normalization import RMSNorm
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from .stdit_positions import Turn, turned


class FeedForward(nn.Module):
    """Two linear layers; hidden_states [R, N, D]."""

    def __init__(self, taken: int, inner: int, given: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(taken, inner), nn.Linear(inner, given)
        self.act = nn.GELU(approximate="tanh")

    def forward(self, hidden_states: Tensor) -> Tensor:
        output: Tensor = self.fc2(self.act(self.fc1(hidden_states)))
        return output


class SelfAttention(nn.Module):
    """Attention among a frame's tokens, or with `temporal` among the frames of each place."""

    def __init__(self, width: int, heads: int, qk_norm: bool, temporal: bool) -> None:
        super().__init__()
        self._heads, self._temporal = heads, temporal
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.q_norm = RMSNorm(width // heads, eps=1e-6) if qk_norm else nn.Identity()
        self.k_norm = RMSNorm(width // heads, eps=1e-6) if qk_norm else nn.Identity()

    def forward(self, hidden_states: Tensor, frames: int, turn: Turn) -> Tensor:
        """hidden_states: [R, T*S, D], frame by frame. turn: of frames."""
        qkv = self.qkv(hidden_states).unflatten(2, (3, self._heads, -1)).unflatten(1, (frames, -1))
        order = (3, 0, 2, 4, 1, 5) if self._temporal else (3, 0, 1, 4, 2, 5)
        # [R, T, S, 3, h, d] -> three of [R*S, h, T, d] or [R*T, h, S, d]
        query, key, value = qkv.permute(order).flatten(1, 2)
        query, key = self.q_norm(query), self.k_norm(key)
        if self._temporal:
            query, key = turned(query, turn), turned(key, turn)
        mixed = scaled_dot_product_attention(query, key, value)
        outer = hidden_states.shape[1] // frames if self._temporal else frames
        mixed = torch.unflatten(mixed, 0, (-1, outer))  # [R, S, h, T, d] or [R, T, h, S, d]
        back = (0, 3, 1, 2, 4) if self._temporal else (0, 1, 3, 2, 4)
        output: Tensor = self.proj(mixed.permute(back).flatten(3).flatten(1, 2))
        return output


class CrossAttention(nn.Module):
    """Attention of each token to the text."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.q_linear, self.kv_linear = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, hidden_states: Tensor, text: Tensor, mask: Tensor | None) -> Tensor:
        """hidden_states: [R, N, D]. text: [R, L, D]. mask: beside logits, [R, 1, 1, L]."""
        query = self.q_linear(hidden_states).unflatten(2, (self._heads, -1)).transpose(1, 2)  # [R, h, N, d]
        key, value = self.kv_linear(text).unflatten(2, (2, self._heads, -1)).permute(2, 0, 3, 1, 4)  # [R, h, L, d]
        mixed = scaled_dot_product_attention(query, key, value, mask)
        output: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return output


class Block(nn.Module):
    """Self-attention and feed-forward with adaLN-single, and a cross-attention between them without."""

    def __init__(self, width: int, heads: int, inner: int, qk_norm: bool, temporal: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attn = SelfAttention(width, heads, qk_norm, temporal)
        self.cross_attn = CrossAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.mlp = FeedForward(width, inner, width)
        self.scale_shift_table = nn.Parameter(torch.randn(6, width) / width**0.5)

    def forward(
        self, x: Tensor, modulation: Tensor, text: Tensor, mask: Tensor | None, frames: int, turn: Turn
    ) -> Tensor:
        """x: [R, N, D]. modulation: [R, 6, D]."""
        own = (self.scale_shift_table[None] + modulation).chunk(6, dim=1)  # 6 x [R, 1, D]
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = own
        x = x + gate_attn * self.attn(self.norm1(x) * (1 + scale_attn) + shift_attn, frames, turn)
        x = x + self.cross_attn(x, text, mask)
        output: Tensor = x + gate_mlp * self.mlp(self.norm2(x) * (1 + scale_mlp) + shift_mlp)
        return output
