"""The knapsack against exhaustive search, and the interval DP against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soda_export.errors import PlanError
from soda_export.plan.allocate import allocate, allocate_exactly
from soda_export.plan.intervals import solve_intervals


@st.composite
def _knapsack(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Up to 5 places of up to 4 options; option 0 is free."""
    places, options = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    errors = draw(st.lists(st.integers(0, 50), min_size=places * options, max_size=places * options))
    costs = draw(st.lists(st.integers(1, 12), min_size=places * options, max_size=places * options))
    cost = np.array(costs).reshape(places, options)
    cost[:, 0] = 0
    return np.array(errors, float).reshape(places, options), cost, draw(st.integers(0, 40))


def _best(error: np.ndarray, cost: np.ndarray, budget: int) -> float:
    rows = np.arange(len(error))
    return min(
        float(error[rows, choice].sum())
        for choice in map(list, itertools.product(range(error.shape[1]), repeat=len(error)))
        if cost[rows, choice].sum() <= budget
    )


@settings(max_examples=300, deadline=None)
@given(_knapsack())
def test_the_exact_allocation_is_the_best_of_all(case: tuple[np.ndarray, np.ndarray, int]) -> None:
    error, cost, budget = case
    found = allocate_exactly(error, cost, budget)
    assert found.error == _best(error, cost, budget)
    assert found.cost <= budget


@settings(max_examples=300, deadline=None)
@given(_knapsack())
def test_the_relaxation_bounds_the_optimum_from_below(case: tuple[np.ndarray, np.ndarray, int]) -> None:
    error, cost, budget = case
    found, best = allocate(error, cost.astype(float), budget), _best(error, cost, budget)
    assert found.cost <= budget
    assert found.bound - 1e-9 <= best <= found.error + 1e-9
    rows = np.arange(len(error))
    assert found.error == pytest.approx(float(error[rows, found.choice].sum()))


def test_the_gap_is_small_where_places_are_many() -> None:
    random = np.random.default_rng(0)
    error = np.sort(random.random((600, 5)), axis=1)[:, ::-1] * random.random((600, 1))
    cost = np.sort(random.random((600, 5)), axis=1)
    cost[:, 0] = 0
    gaps = [allocate(error, cost, budget).gap for budget in (20.0, 60.0, 150.0)]
    print(f"gap to the Lagrangian bound, 600 places: {max(gaps):.1e}")
    assert max(gaps) < 2e-3


def _all_schedules(steps: int, ways: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    inner = range(1, steps - 1)
    anchors = [(0, *c, steps - 1) for n in range(steps - 1) for c in itertools.combinations(inner, n)]
    return [
        (a, w)
        for a in anchors
        for w in itertools.product(range(ways), repeat=len(a) - 1)
    ]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 7), st.integers(1, 2), st.integers(2, 6))
def test_intervals_are_solved_exactly(seed: int, steps: int, ways: int, gaps: int) -> None:
    """Costs of a step that are whole units, so rounding plays no part."""
    random = np.random.default_rng(seed)
    cost = random.random((steps, gaps + 1, ways))
    cost[:, 1] = 0.0
    way = random.integers(0, 20, ways).astype(float)
    budget = float(random.integers(64, 64 * steps))
    best = np.inf
    for anchors, chosen in _all_schedules(steps, ways):
        spans = list(itertools.pairwise(anchors))
        spent = 64 * len(anchors) + sum((b - a - 1) * way[w] for (a, b), w in zip(spans, chosen, strict=True))
        if spent <= budget and all(b - a <= gaps for a, b in spans):
            best = min(best, sum(cost[a, b - a, w] for (a, b), w in zip(spans, chosen, strict=True)))
    if not np.isfinite(best):
        with pytest.raises(PlanError):
            solve_intervals(cost, 64.0, way, budget)
        return
    found = solve_intervals(cost, 64.0, way, budget)
    assert found.cost == pytest.approx(best)
    again = sum(cost[a, b - a, w] for (a, b), w in zip(itertools.pairwise(found.anchors), found.ways, strict=True))
    assert again == pytest.approx(best)
