"""SODA's unified adaptive strategy (UAS): prune or reuse, for every leaf site of every non-anchor step.

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
    """choice: index into Choices.keeps, [T, P]. price: error per FLOP below which pruning was not worth it."""

    choice: NDArray[np.int64]
    beta: float
    price: float


def decide_sites(
    choices: Choices, flops_budget: float, sensitivity_weight: float, strategy: Strategy
) -> Decisions:
    """Spend at most `flops_budget` FLOPs (one sample, all non-anchor steps together) on pruned sites.

    sensitivity_weight: lambda.
    """
    if strategy == "none" or not choices.steps.size or flops_budget <= 0 or not choices.renewable.any():
        return Decisions(np.zeros(choices.error.shape[:2], np.int64), 0.0, np.inf)
    if strategy == "literal":
        return _literal(choices, flops_budget, sensitivity_weight)
    offers = (_efficient(choices, flops_budget, sensitivity_weight, beta) for beta in _BETAS)
    return min(offers, key=lambda offer: float(take(choices.error, offer.choice).sum()))


def take(table: NDArray[np.float64], choice: NDArray[np.int64]) -> NDArray[np.float64]:
    """Entries [..., choice] of a table [T, P, C] -> [T, P]."""
    return np.take_along_axis(table, choice[..., None], axis=-1)[..., 0]


def spent_flops(choices: Choices, choice: NDArray[np.int64]) -> int:
    """FLOPs of the pruned sites, one sample, all non-anchor steps together."""
    return int(_costs(choices, choice).sum())


def _costs(choices: Choices, choice: NDArray[np.int64]) -> NDArray[np.int64]:
    costs: NDArray[np.int64] = choices.flops[np.arange(choice.shape[1]), choice]
    return costs


def _wanted(choices: Choices, weight: float, beta: float) -> NDArray[np.int64]:
    """The pruning rate rule, rounded to the nearest count on offer."""
    share = np.clip(beta + weight * choices.reuse_error, 0.0, 1.0)
    wanted: NDArray[np.int64] = np.abs((share * choices.tokens)[..., None] - choices.keeps).argmin(axis=-1)
    return wanted


def _efficient(choices: Choices, budget: float, weight: float, beta: float) -> Decisions:
    wanted = _wanted(choices, weight, beta)
    gain, cost = choices.reuse_error - take(choices.error, wanted), _costs(choices, wanted)
    efficiency = np.where(cost > 0, gain / np.maximum(cost, 1), -np.inf)
    order = np.argsort(-efficiency, axis=None, kind="stable")
    affordable = np.cumsum(cost.flat[order]) <= budget
    chosen = order[affordable & (efficiency.flat[order] > 0)]
    choice = np.zeros_like(wanted)
    choice.flat[chosen] = wanted.flat[chosen]
    price = float(efficiency.flat[chosen[-1]]) if len(chosen) else np.inf
    return Decisions(choice, float(beta), price)


def _literal(choices: Choices, budget: float, weight: float) -> Decisions:
    def at(beta: float) -> NDArray[np.int64]:
        wanted = _wanted(choices, weight, beta)
        return np.where(take(choices.error, wanted) < choices.reuse_error, wanted, 0)

    low, high = -weight * float(choices.reuse_error.max()) - 1.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if spent_flops(choices, at(middle)) <= budget else (low, middle)
    choice = at(low)
    removed = float((choices.reuse_error - take(choices.error, choice)).sum())
    return Decisions(choice, low, removed / max(1, spent_flops(choices, choice)))
