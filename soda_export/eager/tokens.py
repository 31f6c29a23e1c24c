"""Choose which tokens a pruned module computes: plain tensor code that the reference runs and export traces."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..models.identity import TokenScore


class TokenScorer(nn.Module):
    """(module inputs [R, N, D], cached output [R, N, D]) -> scores [B, N]; the larger, the sooner a token is kept.

    Both guidance halves share one score, their mean, so one index set serves both (rows = R / B).
    """

    def __init__(self, score: TokenScore, rows: int) -> None:
        super().__init__()
        self.score, self.rows = score, rows

    def forward(self, inputs: Tensor, cached: Tensor) -> Tensor:
        feature = (cached if self.score == "cached" else inputs).float().mean(dim=-1)  # [R, N]
        if self.score == "abs-mean":
            feature = feature.abs()
        scores: Tensor = feature.reshape(self.rows, -1, feature.shape[1]).mean(dim=0)
        return scores


def top_tokens(scores: Tensor, keep: int) -> Tensor:
    """Indices [B, keep] of the largest scores [B, N], best first; ties go to the lower index."""
    return torch.sort(scores, dim=1, descending=True, stable=True).indices[:, :keep]


def top_margin(scores: Tensor, keep: int) -> Tensor:
    """Difference [B] between the last kept score and the first dropped one."""
    ordered = torch.sort(scores, dim=1, descending=True).values
    return ordered[:, keep - 1] - ordered[:, keep]


def gather_tokens(x: Tensor, indices: Tensor) -> Tensor:
    """[R, N, D] at [R, keep] -> [R, keep, D]."""
    return torch.gather(x, 1, indices[..., None].expand(-1, -1, x.shape[-1]))


def scatter_tokens(cached: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """A copy of cached [R, N, D] with updates [R, keep, D] at [R, keep]."""
    return torch.scatter(cached, 1, indices[..., None].expand(-1, -1, cached.shape[-1]), updates)
