"""Error of a site's outputs against older ones, token by token, so that reuse and prune errors share one pass.

Replacing only some tokens leaves the error of the others. With an error that is a sum over tokens, the error of keeping
the best k is therefore a suffix sum over the tokens sorted by score: every rate costs nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..plan.sensitivity import RATES, Metric

_CHUNK = 1 << 19  # numbers that are compared at once: what the processor's cache holds, four times faster than all


def token_terms(new: Sequence[Tensor], old: Sequence[Tensor], metric: Metric) -> Tensor:
    """What each token contributes to the error of using old for new: float32 [I, B, N], guidance halves summed.

    new: a site's outputs, each [B, G, N_i, D_i]. old: the same with a leading axis, I older ones, of any float type. N
    is the sum of the N_i. A sample's terms add up to 1 - cos (mean over tokens and halves), the relative L1 error, or
    the square of the relative L2 error.
    """
    parts = []
    for a, b in zip(new, old, strict=True):
        tokens = max(1, _CHUNK * a.shape[2] // max(1, b.numel()))
        pieces = zip(torch.split(a, tokens, 2), torch.split(b, tokens, 3), strict=True)
        parts += [_unscaled(x.float(), y.float(), metric) for x, y in pieces]
    terms = torch.cat(parts, dim=-1)
    if metric == "cosine":
        return terms / terms.shape[-1]
    scale = torch.stack([_powers(tensor.float(), metric).sum(dim=(1, 2, 3)) for tensor in new]).sum(dim=0)
    return terms / scale.clamp(min=1e-12)[:, None]


def _unscaled(new: Tensor, old: Tensor, metric: Metric) -> Tensor:
    """[B, G, n, D], [I, B, G, n, D] -> [I, B, n]."""
    if metric != "cosine":
        return _powers(new - old, metric).sum(dim=(-3, -1))
    along = torch.linalg.vecdot(new, old)
    norms = torch.linalg.vector_norm(new, dim=-1) * torch.linalg.vector_norm(old, dim=-1)
    terms: Tensor = (1.0 - along / norms.clamp(min=1e-12)).clamp(min=0.0).mean(dim=-2)
    return terms


def _powers(x: Tensor, metric: Metric) -> Tensor:
    return x.abs() if metric == "l1" else x * x


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
