"""SODA's unified adaptive strategy (UAS): prune or reuse, for every module of every non-anchor step.

keep share = clip(beta + lambda * E_c, 0, 1), so sensitive places keep more tokens. `efficiency` (default) prunes where
the error removed per FLOP, (E_c - E_p) / FLOPs, exceeds a threshold; threshold and beta are solved together, so that
the FLOPs target is met with the least predicted error. `literal` prunes wherever E_p < E_c, as published, and bisects
beta. `none` reuses everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .errors_by_keep import Choices

Strategy = Literal["efficiency", "literal", "none"]
_BETAS = np.linspace(0.0, 1.0, 41)


@dataclass(frozen=True, eq=False)
class Decisions:
    """choice: index into Choices.keeps, [T, L, M]. price: error per FLOP below which pruning was not worth it."""

    choice: NDArray[np.int64]
    beta: float
    price: float


def decide_modules(
    choices: Choices, prunable: NDArray[np.bool_], flops_budget: float, sensitivity_weight: float, strategy: Strategy
) -> Decisions:
    """Spend at most `flops_budget` FLOPs (one sample, all non-anchor steps together) on pruned modules.

    prunable: [M]. sensitivity_weight: lambda.
    """
    if strategy == "none" or not choices.steps.size or flops_budget <= 0 or not prunable.any():
        return Decisions(np.zeros(choices.error.shape[:3], np.int64), 0.0, np.inf)
    if strategy == "literal":
        return _literal(choices, prunable, flops_budget, sensitivity_weight)
    offers = (_efficient(choices, prunable, flops_budget, sensitivity_weight, beta) for beta in _BETAS)
    return min(offers, key=lambda offer: float(take(choices.error, offer.choice).sum()))


def take(table: NDArray[np.float64], choice: NDArray[np.int64]) -> NDArray[np.float64]:
    """Entries [..., choice] of a table [T, L, M, K] -> [T, L, M]."""
    return np.take_along_axis(table, choice[..., None], axis=-1)[..., 0]


def spent_flops(choices: Choices, choice: NDArray[np.int64]) -> int:
    """FLOPs of the pruned modules, one sample, all non-anchor steps together."""
    return int(sum(choices.flops[m][choice[:, :, m]].sum() for m in range(choice.shape[2])))


def _wanted(choices: Choices, prunable: NDArray[np.bool_], weight: float, beta: float) -> NDArray[np.int64]:
    """The pruning rate rule, rounded to the nearest count on offer; 0 where a module is not prunable."""
    share = np.clip(beta + weight * choices.reuse_error(), 0.0, 1.0)
    wanted = np.abs(share[..., None] * choices.num_tokens - choices.keeps).argmin(axis=-1)
    return np.where(prunable, wanted, 0)


def _efficient(
    choices: Choices, prunable: NDArray[np.bool_], budget: float, weight: float, beta: float
) -> Decisions:
    wanted = _wanted(choices, prunable, weight, beta)
    gain = choices.reuse_error() - take(choices.error, wanted)
    cost = take(np.broadcast_to(choices.flops, choices.error.shape), wanted)
    efficiency = np.where(cost > 0, gain / np.maximum(cost, 1), -np.inf)
    order = np.argsort(-efficiency, axis=None, kind="stable")
    affordable = np.cumsum(np.where(cost > 0, cost, 0).flat[order]) <= budget
    chosen = order[affordable & (efficiency.flat[order] > 0)]
    choice = np.zeros_like(wanted)
    choice.flat[chosen] = wanted.flat[chosen]
    price = float(efficiency.flat[chosen[-1]]) if len(chosen) else np.inf
    return Decisions(choice, float(beta), price)


def _literal(choices: Choices, prunable: NDArray[np.bool_], budget: float, weight: float) -> Decisions:
    def at(beta: float) -> NDArray[np.int64]:
        wanted = _wanted(choices, prunable, weight, beta)
        return np.where(take(choices.error, wanted) < choices.reuse_error(), wanted, 0)

    low, high = -weight * float(choices.reuse_error().max()) - 1.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if spent_flops(choices, at(middle)) <= budget else (low, middle)
    choice = at(low)
    removed = float((choices.reuse_error() - take(choices.error, choice)).sum())
    return Decisions(choice, low, removed / max(1, spent_flops(choices, choice)))
