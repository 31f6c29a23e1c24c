"""Anchors by pairs: exact, in little memory, and refused where a run is too long."""

from __future__ import annotations

import tracemalloc
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from soda_export.errors import PlanError
from soda_export.plan.pairs import MOST_STEPS, WIDEST, pair_anchors, pair_costs


def random_costs(steps: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(0)
    return pair_costs(steps, lambda i, j, ends: rng.uniform(0.1, 1.0, len(ends)).tolist())


@pytest.mark.parametrize("budget", [2, 3, 4])
def test_runs_longer_than_an_interval_are_solved_exactly(budget: int) -> None:
    steps = WIDEST + 6
    costs = random_costs(steps)

    def everything(anchors: tuple[int, ...]) -> float:
        path = (0, *anchors, steps)
        return sum(float(costs[path[n : n + 3]]) for n in range(len(anchors)))

    least = min(everything((0, *others)) for others in combinations(range(1, steps), budget - 1))
    assert everything(pair_anchors(costs, budget)) == pytest.approx(least)


def test_solving_takes_little_memory_beside_the_costs() -> None:
    costs = random_costs(120)
    tracemalloc.start()
    try:
        assert len(pair_anchors(costs, 60)) == 60
        assert tracemalloc.get_traced_memory()[1] < costs.nbytes / 10
    finally:
        tracemalloc.stop()


def test_longer_runs_are_refused_before_memory_is_taken() -> None:
    with pytest.raises(PlanError, match=f"--steps {MOST_STEPS + 1}: .* at most {MOST_STEPS} steps"):
        pair_costs(MOST_STEPS + 1, lambda *_: pytest.fail("asked for costs"))
