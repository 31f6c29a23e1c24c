"""Forecasts with constant coefficients: in a frozen schedule, a Taylor expansion is a weighted sum of computed outputs.

TaylorSeer (arXiv 2503.06923), eq. 6-7: derivatives are finite differences over the last computed steps,

    F0 = Y(a1)    Fi(a1) = (Fi-1(a1) - Fi-1(a2)) / (a1 - a2)    Y(t) ~ sum over i <= order of Fi(a1) (t - a1)^i / i!

with a1 > a2 > a3 the last steps that computed the output, all counted in execution order. No torch.
"""

from __future__ import annotations

from collections.abc import Sequence


def forecast_weights(step: int, computed: Sequence[int], order: int) -> tuple[float, ...]:
    """Weights of the last `order` + 1 outputs, newest first, that forecast the output at `step`; they add up to 1.

    computed: steps that computed it, newest first, at least order + 1 of them, all before `step`.
    """
    differences = _differences(tuple(computed[: order + 1]))
    distance, weights, factor = step - computed[0], [0.0] * (order + 1), 1.0
    for i, row in enumerate(differences):
        if i:
            factor *= distance / i
        for j, weight in enumerate(row):
            weights[j] += factor * weight
    return tuple(weights)


def _differences(nodes: tuple[int, ...]) -> list[list[float]]:
    """Row i: the i-th finite difference at the newest node as weights of the outputs at all nodes."""
    count = len(nodes)
    level = [[1.0 if i == j else 0.0 for j in range(count)] for i in range(count)]  # F0 at every node
    rows = [level[0]]
    for _ in range(1, count):
        level = [
            [(a - b) / (nodes[i] - nodes[i + 1]) for a, b in zip(level[i], level[i + 1], strict=True)]
            for i in range(len(level) - 1)
        ]
        rows.append(level[0])
    return rows
