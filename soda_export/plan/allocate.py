"""Spend a FLOPs budget on many places at once: each takes one of its options, with an error and a cost.

A multiple-choice knapsack. Its Lagrangian relaxation is solved exactly by taking, over all places, the steps along
each one's lower convex hull of (cost, error) in order of error removed per FLOP (Sinha & Zoltners 1979); what is then
left of the budget is filled greedily. The relaxation's optimum bounds how far that can be from the true one.
Independent of how places and errors came about. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Allocation:
    """choice: [P] option of each place. error, cost: their sums. bound: none within the budget has less error."""

    choice: NDArray[np.int64]
    error: float
    cost: float
    bound: float

    @property
    def gap(self) -> float:
        """How much more error than the bound, relative to it; 0 where it is proved optimal."""
        return 0.0 if self.error <= self.bound else (self.error - self.bound) / max(self.bound, 1e-300)


def allocate(error: NDArray[np.float64], cost: NDArray[np.float64], budget: float) -> Allocation:
    """error, cost: [P, K]; option 0 must be the cheapest of its place. The best found within `budget`.

    The sum of all cheapest options is taken even where it exceeds the budget.
    """
    places = len(error)
    choice = np.zeros(places, np.int64)
    left = budget - float(cost[:, 0].sum())
    moves = sorted(
        (-(error[p, a] - error[p, b]) / (cost[p, b] - cost[p, a]), p, a, b)
        for p in range(places)
        for a, b in _hull_edges(error[p], cost[p])
    )
    bound = float(error[:, 0].sum())
    bounded, stuck = False, np.zeros(places, bool)
    for slope, p, a, b in moves:
        step = float(cost[p, b] - cost[p, a])
        if not bounded:  # the relaxation takes a fraction of the first edge that does not fit
            share = min(1.0, max(0.0, left) / step)
            bound += share * slope * step
            bounded = share < 1.0
        if step <= left and not stuck[p] and choice[p] == a:
            choice[p], left = b, left - step
        else:
            stuck[p] = True
    choice, left = _fill(error, cost, choice, left)
    rows = np.arange(places)
    return Allocation(choice, float(error[rows, choice].sum()), float(cost[rows, choice].sum()), bound)


def allocate_exactly(error: NDArray[np.float64], cost: NDArray[np.int64], budget: int) -> Allocation:
    """The optimum by dynamic programming over whole costs; for small cases, O(P K budget)."""
    places, options = error.shape
    best = np.zeros(budget + 1)
    taken = np.zeros((places, budget + 1), np.int64)
    for p in range(places):
        offers = np.full((options, budget + 1), np.inf)
        for k in range(options):
            c = int(cost[p, k])
            if c <= budget:
                offers[k, c:] = best[: budget + 1 - c] + error[p, k]
        taken[p] = offers.argmin(axis=0)
        best = offers.min(axis=0)
    choice, left = np.zeros(places, np.int64), budget
    for p in reversed(range(places)):
        choice[p] = taken[p, left]
        left -= int(cost[p, choice[p]])
    rows = np.arange(places)
    total = float(error[rows, choice].sum())
    return Allocation(choice, total, float(cost[rows, choice].sum()), total)


def _hull_edges(error: NDArray[np.float64], cost: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Edges (from option, to option) of the lower convex hull from option 0 on, steepest first."""
    edges: list[tuple[int, int]] = []
    a = 0
    while True:
        further = [k for k in range(len(cost)) if cost[k] > cost[a] and error[k] < error[a]]
        if not further:
            return edges
        b = max(further, key=lambda k: ((error[a] - error[k]) / (cost[k] - cost[a]), cost[k]))
        edges.append((a, b))
        a = b


def _fill(
    error: NDArray[np.float64], cost: NDArray[np.float64], choice: NDArray[np.int64], left: float
) -> tuple[NDArray[np.int64], float]:
    """Exchange single options, the largest gain first, while any gain fits."""
    rows = np.arange(len(choice))
    while True:
        gain = error[rows, choice][:, None] - error
        extra = cost - cost[rows, choice][:, None]
        gain = np.where(extra <= left, gain, 0.0)
        p, k = np.unravel_index(int(gain.argmax()), gain.shape)
        if gain[p, k] <= 0.0:
            return choice, left
        choice[p], left = k, left - float(extra[p, k])
