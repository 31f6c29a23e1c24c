"""Where a token is, as STDiT3 tells it: sines of its row and column, and queries and keys turned by its frame."""

from __future__ import annotations

import torch
from torch import Tensor, nn

Turn = tuple[Tensor, Tensor]
"""Cosines and sines [T, d / 2] of the angles by which frames turn pairs of a head's numbers."""

_BASE = 10000.0


class FrameRotation(nn.Module):
    """Rotary embedding (Su et al. 2021) of frames 0 .. T - 1. width: of a head."""

    freqs: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("freqs", _BASE ** (torch.arange(0, width, 2).float() / -width))

    def forward(self, frames: int) -> Turn:
        angles = torch.arange(frames, device=self.freqs.device).to(self.freqs.dtype)[:, None] * self.freqs[None]
        return angles.cos(), angles.sin()


def turned(values: Tensor, by: Turn) -> Tensor:
    """values: [..., T, d], whose numbers 2i and 2i + 1 are a pair."""
    cos, sin = (part.to(values.dtype) for part in by)
    even, odd = torch.unflatten(values, -1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)


def place_embedding(rows: int, columns: int, width: int, side: Tensor) -> Tensor:
    """Sines and cosines of each token's column, then of its row: [rows * columns, width].

    side: of a square as large as the picture, in sides of the one that the model was first trained on. The grid is
    stretched to a square of as many tokens.
    """
    base = round((rows * columns) ** 0.5)
    steps = torch.arange(width // 4, device=side.device).float() / (width // 4)
    across, down = (_waves(count, base, steps, side) for count in (columns, rows))  # [columns, width / 2], [rows, ...]
    across, down = across[None].expand(rows, -1, -1), down[:, None].expand(-1, columns, -1)
    return torch.cat((across, down), dim=-1).flatten(0, 1)


def _waves(count: int, base: int, steps: Tensor, side: Tensor) -> Tensor:
    places = torch.arange(count, device=side.device).float() / side.float() * (base / count)
    angles = places[:, None] * _BASE ** -steps[None]
    return torch.cat((angles.sin(), angles.cos()), dim=-1)
