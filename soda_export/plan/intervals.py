"""Choose anchors and what is done between them at once, under a FLOPs budget, by exact dynamic programming.

    dp[t][f] = min over gaps g, ways w of  dp[t - g][f - anchor - (g - 1) * step(w)] + cost[t - g][g][w]

over whole units f of FLOPs, rounded up, so the budget is never exceeded; the first step is an anchor, and so is the
last. A *way* is how the steps between two anchors do without computing: reuse or forecast, by module or as one stack.
The same recurrence as SODA's (plan/anchors.py), with FLOPs in place of a number of anchors. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import PlanError

_UNITS = 20_000  # most units that a budget is divided into
_UNITS_A_STEP = 64


@dataclass(frozen=True)
class Intervals:
    """anchors: steps that compute everything. ways: way of the steps after each anchor but the last."""

    anchors: tuple[int, ...]
    ways: tuple[int, ...]
    cost: float


def solve_intervals(
    cost: NDArray[np.float64], anchor_flops: float, way_flops: NDArray[np.float64], budget: float
) -> Intervals:
    """cost: [S, G + 1, W], of the interval from anchor s to anchor s + g by way w, infinite where impossible; column
    g = 0 is unused. way_flops: [W], of one step that is no anchor. Raises PlanError where no schedule is within
    `budget` FLOPs."""
    steps, gaps, ways = cost.shape[0], cost.shape[1] - 1, cost.shape[2]
    unit = anchor_flops / max(1, min(_UNITS_A_STEP, _UNITS // steps))
    anchor, way = round(anchor_flops / unit), np.ceil(way_flops / unit - 1e-9).astype(np.int64)
    most = int(budget / unit + 1e-9)
    if most < anchor:
        raise PlanError("the budget is less than the first step, which computes everything")
    best = np.full((steps, most + 1), np.inf)
    came = np.zeros((steps, most + 1, 2), np.int32)  # gap and way
    best[0, anchor:] = 0.0
    for t in range(1, steps):
        for g in range(1, min(gaps, t) + 1):
            for w in range(ways if g > 1 else 1):
                spent = anchor + (g - 1) * int(way[w])
                if spent > most or not np.isfinite(cost[t - g, g, w]):
                    continue
                offer = best[t - g, : most + 1 - spent] + cost[t - g, g, w]
                better = offer < best[t, spent:]
                best[t, spent:] = np.where(better, offer, best[t, spent:])
                came[t, spent:][better] = (g, w)
    if not np.isfinite(best[-1, most]):
        raise PlanError("no schedule of the measured intervals is within the budget")
    anchors, chosen, left, t = [steps - 1], [], most, steps - 1
    while t:
        g, w = (int(v) for v in came[t, left])
        left -= anchor + (g - 1) * int(way[w])
        t -= g
        anchors.append(t)
        chosen.append(w)
    return Intervals(tuple(reversed(anchors)), tuple(reversed(chosen)), float(best[-1, most]))
