"""Anchors by dynamic programming over pairs: what steps between anchors cost depends on the two anchors before them.

    D[m][j][k] = min over i < j of D[m - 1][i][j] + C[i, j, k]

is the least cost of m anchors of which i and j are the last, up to step k, which is the next one or the end of the run.
It is exact, and no anchor needs to stand at the end of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import PlanError

WIDEST = 12
"""Steps between two anchors."""
Between = Callable[[int, int, range], Sequence[float]]
"""(i, j, values of k) -> C[i, j, k] for each."""


def pair_costs(steps: int, between: Between) -> NDArray[np.float64]:
    """C[i, j, k] for i < j < k <= S. At i = j there is no anchor before j. Infinite where two of them are too far
    apart."""
    costs = np.full((steps, steps, steps + 1), np.inf)
    for j in range(steps):
        ends = range(j + 1, min(j + WIDEST, steps) + 1)
        for i in range(max(0, j - WIDEST), j + 1):
            costs[i, j, ends] = between(i, j, ends)
    return costs


def pair_anchors(costs: NDArray[np.float64], budget: int, first: int = 1) -> tuple[int, ...]:
    """The cheapest `budget` anchors for C [S, S, S + 1], the first `first` of S steps among them. Raises PlanError."""
    steps = costs.shape[0]
    first = min(first, budget)
    best = np.full((budget + 1, steps, steps + 1), np.inf)
    came = np.zeros((budget + 1, steps, steps + 1), np.int64)
    if first == 1:
        best[1, 0] = costs[0, 0]
    else:
        best[first, first - 1] = costs[first - 2, first - 1]
        came[first, first - 1] = first - 2
    for m in range(first + 1, budget + 1):
        for j in range(m - 1, steps):
            offers = best[m - 1, :j, j][:, None] + costs[:j, j]  # [i, k]
            best[m, j], came[m, j] = offers.min(axis=0), offers.argmin(axis=0)
    last = int(best[budget, :, steps].argmin())
    if not np.isfinite(best[budget, last, steps]):
        raise PlanError(f"--budget {budget}: anchors at most {WIDEST} steps apart must reach from step 0 to the end")
    anchors, end = [last], steps
    for m in range(budget, first, -1):
        anchors.append(int(came[m, anchors[-1], end]))
        end = anchors[-2]
    return (*range(first - 1), *reversed(anchors))
