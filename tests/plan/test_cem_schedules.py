"""Anchors on the prior that CEM released, for every number of anchors, against a second implementation."""

from __future__ import annotations

import json
import math
from functools import cache

import pytest

from soda_export.errors import PlanError
from soda_export.plan.anchors import cem_cost, solve_anchors
from soda_export.plan.prior import read_prior
from tests.plan.test_anchors import PRIOR

STEPS = 50


@cache
def interval_errors() -> dict[int, list[float]]:
    """Distance -> cumulated error * distance^2 in execution order, infinite where the prior says nothing."""
    columns = json.loads(PRIOR.read_text())["reuse_error"]
    result = {}
    for distance, column in columns.items():
        c, total, errors = int(distance), 0.0, []
        for error in reversed(column):
            total += error
            errors.append(total * c**2 if error else math.inf)
        result[c] = errors
    return result


def best_by_recursion(budget: int) -> tuple[float, tuple[int, ...]]:
    mean = round(STEPS / budget)
    gaps = range(max(1, mean - 1), min(10, mean + 1) + 1)

    @cache
    def best(t: int, k: int) -> tuple[float, tuple[int, ...]]:
        if k == 1:
            return (0.0, (0,)) if t == 0 else (math.inf, ())
        offers = []
        for gap in gaps:
            if gap <= t:
                cost, path = best(t - gap, k - 1)
                offers.append((cost + (interval_errors()[gap - 1][t] if gap > 1 else 0.0), (*path, t)))
        return min(offers, key=lambda offer: offer[0], default=(math.inf, ()))

    return best(STEPS - 1, budget)


@pytest.mark.parametrize("budget", range(1, STEPS + 1))
def test_every_number_of_anchors_gives_the_recursions_schedule(budget: int) -> None:
    error = read_prior(PRIOR, STEPS)
    cost, anchors = best_by_recursion(budget)
    if math.isinf(cost):
        with pytest.raises(PlanError, match="--budget"):
            solve_anchors(cem_cost(error, budget), budget)
    else:
        assert solve_anchors(cem_cost(error, budget), budget) == anchors
