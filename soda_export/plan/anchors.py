"""SODA's dynamic caching schedule (DCS): choose the anchor steps by dynamic programming (arXiv 2603.07057).

    dp[t][k] = min over gaps g of  dp[t - g][k - 1] + cost[t, g]        answer dp[S - 1][budget], then back-track

in execution order; the first and the last step are always anchors. Boundary conditions as in the same authors' CEM
code (arXiv 2512.23258). cost[t, g] = predicted error of the g - 1 steps between anchors t - g and t.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import PlanError

AnchorCost = Literal["sum", "cem"]


def anchor_cost(kind: AnchorCost, reuse_error: NDArray[np.float64], budget: int) -> NDArray[np.float64]:
    """The cost of that kind by gap, [S, I + 2], for reuse_error [S, I]."""
    return cem_cost(reuse_error, budget) if kind == "cem" else interval_sum_cost(reuse_error)


def interval_sum_cost(reuse_error: NDArray[np.float64]) -> NDArray[np.float64]:
    """Exact interval sums. reuse_error [S, I], column n - 1 = error at distance n -> cost [S, I + 2] by gap.

    cost[t, g] = sum over k = 1..g-1 of the error at step t - g + k, distance k; column 0 is unused (infinite).
    """
    steps, intervals = reuse_error.shape
    cost = np.full((steps, intervals + 2), np.inf)
    cost[:, 1] = 0.0
    for gap in range(2, intervals + 2):
        if gap < steps:
            cost[gap:, gap] = sum(reuse_error[k : steps - gap + k, k - 1] for k in range(1, gap))
    return cost


def cem_cost(reuse_error: NDArray[np.float64], budget: int, window: int = 1) -> NDArray[np.float64]:
    """CEM's cost: cumulated error at distance g - 1, times (g - 1)^2, gaps within `window` of the mean gap.

    An error of 0 counts as undefined, and the gap as impossible.
    """
    steps, intervals = reuse_error.shape
    _check_range(budget, steps)
    mean_gap = round(steps / budget)  # Python rounds half to even, as CEM does
    cost = np.full((steps, intervals + 2), np.inf)
    cumulated = np.cumsum(reuse_error, axis=0)
    for gap in range(max(1, mean_gap - window), min(intervals + 1, mean_gap + window) + 1):
        if gap == 1:
            cost[:, 1] = 0.0
            continue
        column = cumulated[:, gap - 2] * (gap - 1) ** 2
        cost[:, gap] = np.where(reuse_error[:, gap - 2] > 0, column, np.inf)
    return cost


def by_end(by_start: NDArray[np.float64]) -> NDArray[np.float64]:
    """Costs [S, G + 1] of the interval from each anchor by gap -> of the interval to each anchor, infinite where it
    would begin before the run."""
    cost = np.full_like(by_start, np.inf)
    for gap in range(1, min(by_start.shape[1], len(by_start))):
        cost[gap:, gap] = by_start[: len(by_start) - gap, gap]
    return cost


class AnchorTable:
    """The cheapest anchors for cost [S, G + 1] by gap, of every number up to `most`: the table's column k follows from
    column k - 1, so it is made once for all of them."""

    def __init__(self, cost: NDArray[np.float64], most: int) -> None:
        steps, gaps = cost.shape[0], cost.shape[1] - 1
        self._cost, self._most = cost, max(1, min(most, steps))
        self._best = np.full((steps, self._most + 1), np.inf)
        self._previous = np.zeros((steps, self._most + 1), np.int64)
        self._best[0, 1] = 0.0
        for k in range(2, self._most + 1):
            for gap in range(1, min(gaps, steps - 1) + 1):
                candidate = self._best[:-gap, k - 1] + cost[gap:, gap]
                better = candidate < self._best[gap:, k]
                self._best[gap:, k] = np.where(better, candidate, self._best[gap:, k])
                self._previous[gap:, k] = np.where(better, np.arange(steps - gap), self._previous[gap:, k])

    def anchors(self, budget: int) -> tuple[int, ...]:
        """Of that many, at most `most`. Raises PlanError with the possible range."""
        if not 1 <= budget <= self._most or not np.isfinite(self._best[-1, budget]):
            raise PlanError(_infeasible(self._cost, budget))
        anchors = [len(self._best) - 1]
        for k in range(budget, 1, -1):
            anchors.append(int(self._previous[anchors[-1], k]))
        return tuple(reversed(anchors))


def solve_anchors(cost: NDArray[np.float64], budget: int) -> tuple[int, ...]:
    """The cheapest `budget` anchors for cost [S, G + 1] by gap. Raises PlanError with the possible range."""
    return AnchorTable(cost, budget).anchors(budget)


def _check_range(budget: int, steps: int) -> None:
    if not 1 <= budget <= steps:
        raise PlanError(f"--budget {budget}: give 1 .. {steps} anchors")


def _infeasible(cost: NDArray[np.float64], budget: int) -> str:
    steps = cost.shape[0]
    usable = [gap for gap in range(1, cost.shape[1]) if np.isfinite(cost[:, gap]).any()]
    if not usable:
        low = -(-(steps - 1) // (cost.shape[1] - 1)) + 1
        return f"--budget {budget}: anchors would be too far apart for the profile; give {low} .. {steps}"
    low, high = -(-(steps - 1) // max(usable)) + 1, (steps - 1) // min(usable) + 1
    reason = f"anchors {min(usable)} to {max(usable)} steps apart cover {steps} steps with {low} to {high} anchors"
    return f"--budget {budget}: not possible; {reason}"
