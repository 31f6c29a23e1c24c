"""Forecasts as weighted sums: what they reproduce, and that they are the released recursion."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soda_export.plan.forecast import forecast_weights

steps_computed = st.lists(st.integers(0, 200), min_size=3, max_size=3, unique=True).map(lambda s: sorted(s)[::-1])
distances = st.integers(1, 20)


@given(steps_computed, distances, st.integers(0, 2))
def test_weights_add_up_to_one(computed: list[int], distance: int, order: int) -> None:
    weights = forecast_weights(computed[0] + distance, computed, order)
    assert len(weights) == order + 1
    assert sum(weights) == pytest.approx(1.0, abs=1e-9)


@given(steps_computed, distances, st.floats(-10, 10), st.floats(-10, 10))
def test_order_one_is_exact_for_linear_outputs(computed: list[int], distance: int, a: float, b: float) -> None:
    step = computed[0] + distance
    weights = forecast_weights(step, computed, 1)
    forecast = sum(w * (a + b * t) for w, t in zip(weights, computed, strict=False))
    assert forecast == pytest.approx(a + b * step, abs=1e-6)


@given(st.integers(1, 12), distances)
def test_order_two_leaves_spacing_times_distance_of_a_square(spacing: int, distance: int) -> None:
    """The first derivative is a backward difference, so a parabola is not met exactly."""
    weights = forecast_weights(distance, [0, -spacing, -2 * spacing], 2)
    forecast = sum(w * t**2 for w, t in zip(weights, (0, -spacing, -2 * spacing), strict=True))
    assert forecast == pytest.approx(distance**2 - spacing * distance)


def test_order_zero_is_the_latest_output() -> None:
    assert forecast_weights(9, [7, 3, 1], 0) == (1.0,)


@settings(deadline=None)
@given(st.sets(st.integers(1, 39), min_size=3, max_size=20), st.integers(1, 2), st.integers(0, 2**32 - 1))
def test_a_run_equals_the_recursion_over_derivatives(later: set[int], order: int, seed: int) -> None:
    """Derivatives are updated at every computed step from those of the one before, and expanded in between."""
    outputs = np.random.default_rng(seed).normal(size=40)
    derivatives: list[float] = []
    computed: list[int] = []  # newest first
    for t in range(40):
        if t == 0 or t in later:
            fresh = [float(outputs[t])]
            for old in derivatives[:order]:
                fresh.append((fresh[-1] - old) / (t - computed[0]))
            derivatives, computed = fresh, [t, *computed]
            continue
        expected = sum(d * (t - computed[0]) ** i / math.factorial(i) for i, d in enumerate(derivatives))
        weights = forecast_weights(t, computed, len(derivatives) - 1)
        found = sum(w * outputs[a] for w, a in zip(weights, computed, strict=False))
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-6)
