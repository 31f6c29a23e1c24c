"""Error of a site's outputs against older ones, token by token, so that reuse and prune errors share one pass.

Replacing only some tokens leaves the error of the others. With an error that is a sum over tokens, the error of keeping
the best k is therefore a suffix sum over the tokens sorted by score: every rate costs nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..plan.sensitivity import RATES, Metric


def token_terms(new: Sequence[Tensor], old: Sequence[Tensor], metric: Metric) -> Tensor:
    """What each token contributes to the error of using old for new: [I, B, N], guidance halves summed.

    new: a site's outputs, each [B, G, N_i, D_i]. old: the same with a leading axis, I older ones. N is the sum of the
    N_i. A sample's terms add up to 1 - cos (mean over tokens and halves), the relative L1 error, or the square of the
    relative L2 error.
    """
    count = sum(tensor.shape[2] for tensor in new)
    if metric == "cosine":
        return torch.cat([_cosine_terms(a, b) for a, b in zip(new, old, strict=True)], dim=-1) / count
    power = 1 if metric == "l1" else 2
    scale = sum((a.abs().pow(power).sum(dim=(1, 2, 3)) for a in new), torch.zeros(()))
    terms = [(a - b).abs().pow(power).sum(dim=(-3, -1)) for a, b in zip(new, old, strict=True)]
    return torch.cat(terms, dim=-1) / scale.clamp(min=1e-12)[:, None]


def _cosine_terms(new: Tensor, old: Tensor) -> Tensor:
    """[B, G, N, D], [I, B, G, N, D] -> mean over G of 1 - cos: [I, B, N]."""
    along = torch.linalg.vecdot(new, old)
    norms = torch.linalg.vector_norm(new, dim=-1) * torch.linalg.vector_norm(old, dim=-1)
    return (1.0 - along / norms.clamp(min=1e-12)).clamp(min=0.0).mean(dim=-2)


def reuse_and_prune_errors(terms: Tensor, order: Tensor, metric: Metric) -> Tensor:
    """Errors of reusing everything, then of pruning each of RATES: float64 [..., 1 + len(RATES)].

    terms: [..., N] of token_terms. order: token indices [..., N], best score first.
    """
    ordered = torch.gather(terms, -1, order).double()
    remaining = ordered.flip(-1).cumsum(-1).flip(-1)  # [..., k] = sum of the terms from the k-th on
    remaining = torch.cat([remaining, remaining.new_zeros(*terms.shape[:-1], 1)], dim=-1)
    count = order.shape[-1]
    kept = [0, *(round((1.0 - rate) * count) for rate in RATES)]
    errors = remaining[..., kept]
    return errors.sqrt() if metric == "l2" else errors


def reuse_errors(terms: Tensor, metric: Metric) -> Tensor:
    """Errors of reusing everything alone: float64 [...]."""
    total = terms.double().sum(dim=-1)
    return total.sqrt() if metric == "l2" else total
