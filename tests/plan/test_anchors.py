"""The dynamic programme for anchors."""

from __future__ import annotations

import re
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soda_export.errors import PlanError
from soda_export.plan import anchors
from soda_export.plan.anchors import AnchorTable, cem_cost, interval_sum_cost, solve_anchors
from soda_export.plan.planners import soda
from soda_export.plan.planners.soda import SodaOptions, solve_soda
from soda_export.plan.prior import read_prior
from soda_export.plan.problem import Target
from tests.plan.problems import TOY
from tests.plan.problems import problem as problem_of

PRIOR = Path(__file__).parents[1] / "data/cem_dit_prior.json"


@pytest.mark.parametrize(
    ("budget", "anchors"),
    [
        (18, [0, 4, 8, 12, 16, 19, 22, 25, 28, 31, 34, 37, 39, 41, 43, 45, 47, 49]),
        (14, [0, 5, 10, 15, 20, 24, 28, 31, 34, 37, 40, 43, 46, 49]),
    ],
)
def test_cem_schedules_on_the_released_prior_are_reproduced(budget: int, anchors: list[int]) -> None:
    error = read_prior(PRIOR, 50)
    assert list(solve_anchors(cem_cost(error, budget), budget)) == anchors


@st.composite
def _problems(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    steps, gaps = draw(st.integers(2, 9)), draw(st.integers(1, 5))
    values = draw(
        st.lists(st.one_of(st.floats(0, 100), st.just(np.inf)), min_size=steps * gaps, max_size=steps * gaps)
    )
    cost = np.column_stack([np.full(steps, np.inf), np.array(values).reshape(steps, gaps)])
    return cost, draw(st.integers(1, steps))


@settings(max_examples=300, deadline=None)
@given(_problems())
def test_the_programme_equals_brute_force(problem: tuple[np.ndarray, int]) -> None:
    cost, budget = problem
    steps, gaps = cost.shape[0], cost.shape[1] - 1

    def price(anchors: tuple[int, ...]) -> float:
        if anchors[0] != 0 or anchors[-1] != steps - 1:
            return np.inf
        return sum(cost[b, b - a] if b - a <= gaps else np.inf for a, b in pairwise(anchors))

    best = min((price(chosen) for chosen in combinations(range(steps), budget)), default=np.inf)
    if np.isfinite(best):
        assert price(solve_anchors(cost, budget)) == pytest.approx(best)
    else:
        with pytest.raises(PlanError, match="--budget"):
            solve_anchors(cost, budget)


@settings(max_examples=100, deadline=None)
@given(_problems())
def test_one_table_has_the_anchors_of_every_budget(problem: tuple[np.ndarray, int]) -> None:
    cost, _ = problem
    table = AnchorTable(cost, len(cost))
    for budget in range(len(cost) + 2):
        try:
            wanted = solve_anchors(cost, budget)
        except PlanError as error:
            with pytest.raises(PlanError, match=re.escape(str(error))):
                table.anchors(budget)
        else:
            assert table.anchors(budget) == wanted


@pytest.mark.parametrize("steps", [20, 80])
def test_soda_makes_one_table_however_many_budgets_it_tries(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made, budgets = list[int](), set[int]()

    class Counted(AnchorTable):
        def __init__(self, cost: np.ndarray, most: int) -> None:
            made.append(most)
            super().__init__(cost, most)

        def anchors(self, budget: int) -> tuple[int, ...]:
            budgets.add(budget)
            return super().anchors(budget)

    monkeypatch.setattr(soda, "AnchorTable", Counted)
    monkeypatch.setattr(anchors, "AnchorTable", Counted)
    solve_soda(problem_of(TOY, "ddim", steps), Target(flops_ratio=2.0), SodaOptions())
    assert len(made) == 1
    assert len(budgets) > 3


def test_interval_cost_sums_the_errors_between_two_anchors() -> None:
    error = np.arange(30, dtype=np.float64).reshape(10, 3)
    cost = interval_sum_cost(error)
    # anchors 4 and 7: step 5 reuses at distance 1, step 6 at distance 2
    assert cost[7, 3] == error[5, 0] + error[6, 1]
    assert cost[7, 1] == 0.0
    assert np.isinf(cost[2, 3])


def test_an_infeasible_budget_names_the_possible_range() -> None:
    cost = interval_sum_cost(np.ones((50, 9)))
    with pytest.raises(PlanError, match="6 to 50 anchors"):
        solve_anchors(cost, 5)
    with pytest.raises(PlanError, match="6 to 50 anchors"):
        solve_anchors(cost, 51)
    with pytest.raises(PlanError, match="give 6"):
        solve_anchors(cem_cost(np.ones((50, 9)), 3), 3)


def test_every_possible_budget_of_a_run_is_solved() -> None:
    error = np.random.default_rng(0).random((50, 9))
    for budget in range(6, 51):
        anchors = solve_anchors(interval_sum_cost(error), budget)
        assert len(anchors) == budget
        assert (anchors[0], anchors[-1]) == (0, 49)
        assert max(np.diff(anchors), default=1) <= 10


def test_a_prior_of_another_length_is_refused() -> None:
    with pytest.raises(PlanError, match="--steps 50"):
        read_prior(PRIOR, 20)
