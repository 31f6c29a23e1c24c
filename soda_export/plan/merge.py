"""Let steps share programs: merge non-anchor steps until at most a given number of distinct decisions is left.

Steps of a group decide together: each site takes, among the choices its steps had made, the one with the least
summed error + price * FLOPs. Groups whose union loses least are merged first; at the end the price is solved again
for the FLOPs budget.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .decide import Decisions, take
from .errors_by_keep import Choices


def merge_steps(
    choices: Choices, decisions: Decisions, max_groups: int, flops_budget: float
) -> NDArray[np.int64]:
    """The merged choice [T, P] with at most max_groups distinct rows [P]."""
    if not choices.steps.size:
        return decisions.choice
    rows, group_of = np.unique(decisions.choice, axis=0, return_inverse=True)
    if len(rows) <= max_groups:
        return decisions.choice
    group_of = group_of.reshape(-1)
    num_keeps = choices.error.shape[2]
    flops = choices.flops.astype(np.float64)  # [P, C]
    error = np.zeros((len(rows), *choices.error.shape[1:]))
    np.add.at(error, group_of, choices.error)
    counts = np.bincount(group_of, minlength=len(rows)).astype(np.float64)
    allowed = rows[:, :, None] == np.arange(num_keeps)
    price = decisions.price if np.isfinite(decisions.price) else 0.0
    error, counts, allowed, group_of = _agglomerate(error, counts, allowed, group_of, flops * price, max_groups)
    price = _solve_price(error, counts, allowed, flops, flops_budget, price)
    best = _best(error, counts, allowed, flops * price)
    any_keep = allowed | choices.renewable[None, :, None]
    best = _spend_rest(best, error, counts, any_keep, flops, flops_budget)
    return best[group_of]


def error_given_up(choices: Choices, before: NDArray[np.int64], after: NDArray[np.int64]) -> float:
    """Relative increase of the summed predicted error by merging."""
    total = float(take(choices.error, before).sum())
    return float(take(choices.error, after).sum()) / total - 1.0 if total > 0 else 0.0


_Groups = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]


def _agglomerate(
    error: NDArray[np.float64], counts: NDArray[np.float64], allowed: NDArray[np.bool_],
    group_of: NDArray[np.int64], priced: NDArray[np.float64], max_groups: int,
) -> _Groups:  # fmt: skip
    loss = np.array([_objective(error[g], counts[g], allowed[g], priced) for g in range(len(counts))])
    alive = np.ones(len(counts), bool)
    increase = np.full((len(counts), len(counts)), np.inf)

    def refresh(g: int, others: NDArray[np.int64]) -> None:
        together = counts[g] + counts[others, None, None]
        union = _objective(error[g] + error[others], together, allowed[g] | allowed[others], priced)
        increase[g, others] = increase[others, g] = union - loss[g] - loss[others]

    for g in range(len(counts)):
        refresh(g, np.arange(g))
    while alive.sum() > max_groups:
        a, b = np.unravel_index(int(increase.argmin()), increase.shape)
        error[a] += error[b]
        counts[a] += counts[b]
        allowed[a] |= allowed[b]
        group_of = np.where(group_of == b, a, group_of)
        alive[b] = False
        increase[b, :] = increase[:, b] = np.inf
        loss[a] = _objective(error[a], counts[a], allowed[a], priced)
        refresh(int(a), np.flatnonzero(alive & (np.arange(len(counts)) != a)))
    renumber = np.cumsum(alive) - 1
    return error[alive], counts[alive], allowed[alive], renumber[group_of]


def _priced_errors(
    error: NDArray[np.float64], counts: NDArray[np.float64] | float, allowed: NDArray[np.bool_],
    priced: NDArray[np.float64],
) -> NDArray[np.float64]:  # fmt: skip
    return np.where(allowed, error + np.asarray(counts) * priced, np.inf)


def _objective(
    error: NDArray[np.float64], counts: NDArray[np.float64] | float, allowed: NDArray[np.bool_],
    priced: NDArray[np.float64],
) -> NDArray[np.float64]:  # fmt: skip
    """Least error + price * FLOPs, summed over the sites: [..., P, C] -> [...]."""
    result: NDArray[np.float64] = _priced_errors(error, counts, allowed, priced).min(axis=-1).sum(axis=-1)
    return result


def _best(
    error: NDArray[np.float64], counts: NDArray[np.float64], allowed: NDArray[np.bool_], priced: NDArray[np.float64]
) -> NDArray[np.int64]:
    best: NDArray[np.int64] = _priced_errors(error, counts[:, None, None], allowed, priced).argmin(axis=-1)
    return best


def _solve_price(
    error: NDArray[np.float64], counts: NDArray[np.float64], allowed: NDArray[np.bool_],
    flops: NDArray[np.float64], budget: float, start: float,
) -> float:  # fmt: skip
    """The least price at which the groups' choices cost no more than the budget."""

    def spent(price: float) -> float:
        return float(_cost_of(_best(error, counts, allowed, flops * price), counts, flops).sum())

    low, high = 0.0, max(start, 1e-30)
    if spent(low) <= budget:
        return low
    while spent(high) > budget and high < 1e30:
        high *= 4
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (low, middle) if spent(middle) <= budget else (middle, high)
    return high


def _cost_of(
    best: NDArray[np.int64], counts: NDArray[np.float64], flops: NDArray[np.float64]
) -> NDArray[np.float64]:
    """FLOPs of each group and site: [G, P]."""
    cost: NDArray[np.float64] = counts[:, None] * np.take_along_axis(flops, best.T, axis=1).T
    return cost


def _spend_rest(
    best: NDArray[np.int64], error: NDArray[np.float64], counts: NDArray[np.float64], allowed: NDArray[np.bool_],
    flops: NDArray[np.float64], budget: float,
) -> NDArray[np.int64]:  # fmt: skip
    """One price leaves a gap where choices jump over the budget: fill it, best error removed per FLOP first.

    Here any count on offer may be taken, so that few groups still come close to the budget.
    """
    best = best.copy()
    while True:
        cost = _cost_of(best, counts, flops)
        gain = np.take_along_axis(error, best[..., None], axis=-1) - error  # [G, P, C]
        extra = counts[:, None, None] * flops - cost[..., None]
        possible = allowed & (gain > 0) & (extra <= budget - cost.sum())
        if not possible.any():
            return best
        efficiency = np.where(possible, gain / np.maximum(extra, 1e-9), -np.inf)
        group, site, choice = np.unravel_index(int(efficiency.argmax()), efficiency.shape)
        best[group, site] = choice
