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
MOST_STEPS = 400
"""Of a run: C takes 8 S^3 bytes, half a gigabyte, and those who weigh it take as much again."""
Between = Callable[[int, int, range], Sequence[float]]
"""(i, j, values of k) -> C[i, j, k] for each."""


def check_steps(steps: int) -> None:
    """Raises PlanError where a run is too long for C."""
    if steps > MOST_STEPS:
        raise PlanError(
            f"--steps {steps}: costs of pairs of anchors are for at most {MOST_STEPS} steps; take another planner"
        )


def pair_costs(steps: int, between: Between) -> NDArray[np.float64]:
    """C[i, j, k] for i < j < k <= S. At i = j there is no anchor before j. Infinite where two of them are too far
    apart. Raises PlanError where the run is too long for it."""
    check_steps(steps)
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
    best = np.full((steps, WIDEST + 1), np.inf)  # D by j and k - j, of the latest m
    came = np.zeros((budget + 1, steps, WIDEST + 1), np.int64)
    begun = first - 1
    reach = min(WIDEST, steps - begun)
    best[begun, 1 : reach + 1] = costs[max(0, begun - 1), begun, begun + 1 : begun + reach + 1]
    for m in range(first + 1, budget + 1):
        before, best = best, np.full_like(best, np.inf)
        for j in range(m - 1, steps):
            i, reach = np.arange(max(0, j - WIDEST), j), min(WIDEST, steps - j)
            offers = before[i, j - i][:, None] + costs[i[0] : j, j, j + 1 : j + reach + 1]  # [i, k]
            best[j, 1 : reach + 1] = offers.min(axis=0)
            came[m, j, 1 : reach + 1] = i[offers.argmin(axis=0)]
    lasts = np.arange(max(0, steps - WIDEST), steps)
    to_end = best[lasts, steps - lasts]
    last = int(lasts[to_end.argmin()])
    if not np.isfinite(to_end.min()):
        raise PlanError(f"--budget {budget}: anchors at most {WIDEST} steps apart must reach from step 0 to the end")
    anchors, end = [last], steps
    for m in range(budget, first, -1):
        anchors.append(int(came[m, anchors[-1], end - anchors[-1]]))
        end = anchors[-2]
    return (*range(first - 1), *reversed(anchors))
