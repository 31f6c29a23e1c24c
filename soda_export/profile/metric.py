"""Error of a module's output against an older one, token by token, so that reuse and prune errors share one pass.

Replacing only some tokens leaves the error of the others. With an error that is a sum over tokens, the error of keeping
the best k is therefore a suffix sum over the tokens sorted by score: every rate costs nothing more.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..plan.sensitivity import RATES, Metric


def token_terms(new: Tensor, old: Tensor, metric: Metric) -> Tensor:
    """What each token contributes to the error of using old [B, G, N, D] for new: [B, N], guidance halves summed.

    A sample's terms add up to 1 - cos (mean over tokens and halves), the relative L1 error, or the square of the
    relative L2 error.
    """
    if metric == "cosine":
        similarity = torch.nn.functional.cosine_similarity(new, old, dim=-1, eps=1e-12)
        return (1.0 - similarity).clamp(min=0.0).mean(dim=1) / new.shape[2]
    power = 1 if metric == "l1" else 2
    scale = new.abs().pow(power).sum(dim=(1, 2, 3)).clamp(min=1e-12)
    return (new - old).abs().pow(power).sum(dim=(1, 3)) / scale[:, None]


def reuse_and_prune_errors(terms: Tensor, order: Tensor, metric: Metric) -> Tensor:
    """Errors of reusing everything, then of pruning each of RATES: float64 [B, 1 + len(RATES)].

    terms: [B, N] of token_terms. order: token indices [B, N], best score first.
    """
    ordered = torch.gather(terms, 1, order).double()
    remaining = ordered.flip(1).cumsum(1).flip(1)  # [:, k] = sum of the terms from the k-th on
    remaining = torch.cat([remaining, remaining.new_zeros(len(terms), 1)], dim=1)
    count = order.shape[1]
    kept = [0, *(round((1.0 - rate) * count) for rate in RATES)]
    errors = remaining[:, kept]
    return errors.sqrt() if metric == "l2" else errors
