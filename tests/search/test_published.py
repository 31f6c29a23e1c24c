"""Published planners that measure: their searches against trying everything, and what they give on a toy."""

from __future__ import annotations

import time
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch

from soda_export.errors import PlanError
from soda_export.plan.pairs import pair_anchors
from soda_export.plan.problem import Problem, Target
from soda_export.search.journal import Journal
from soda_export.search.published import DESCRIPTIONS, MEASURING
from soda_export.search.published.budcache import _Search
from soda_export.search.published.dpcache import forecast_costs
from soda_export.search.published.interval_paths import minimax_anchors
from soda_export.search.published.whole_steps import fewest_chosen
from soda_export.search.trial import Trials
from tests.search.conftest import STEPS

STEPS_TRIED, BUDGET = 9, 5


def no_progress() -> None:
    """Nobody looks."""


@pytest.mark.parametrize("seed", range(5))
def test_the_worst_interval_is_as_good_as_can_be_and_then_the_next(seed: int) -> None:
    cost = np.random.default_rng(seed).integers(1, 6, (STEPS_TRIED, STEPS_TRIED)).astype(float)  # many are alike
    cost[:, 1] = 0.0

    def costs(anchors: tuple[int, ...]) -> list[float]:
        return sorted((cost[b, b - a] for a, b in pairwise(anchors)), reverse=True)

    inner = combinations(range(1, STEPS_TRIED - 1), BUDGET - 2)
    least = min(costs((0, *chosen, STEPS_TRIED - 1)) for chosen in inner)
    found = minimax_anchors(cost, BUDGET)
    assert len(found) == BUDGET
    assert costs(found) == least
    with pytest.raises(PlanError, match="no path of intervals of up to 2 steps"):
        minimax_anchors(cost[:, :3], 4)


@pytest.mark.parametrize("first", [1, 3])
@pytest.mark.parametrize("seed", range(5))
def test_pairs_of_anchors_are_chosen_exactly(seed: int, first: int) -> None:
    costs = np.random.default_rng(seed).uniform(0.1, 1.0, (STEPS_TRIED, STEPS_TRIED, STEPS_TRIED + 1))

    def everything(anchors: tuple[int, ...]) -> float:
        path = (0, *anchors, STEPS_TRIED)  # at step 0 there is no anchor before it
        return sum(float(costs[path[n], path[n + 1], path[n + 2]]) for n in range(first - 1, len(anchors)))

    chosen = combinations(range(first, STEPS_TRIED), BUDGET - first)
    least = min(everything((*range(first), *others)) for others in chosen)
    found = pair_anchors(costs, BUDGET, first)
    assert found[:first] == tuple(range(first))
    assert len(found) == BUDGET
    assert everything(found) == pytest.approx(least)


def test_outputs_on_a_line_are_forecast_without_error() -> None:
    outputs = [torch.tensor([1.0 + 2.0 * step, -step]) for step in range(6)]
    costs = forecast_costs(outputs)
    assert costs[0, 2, 6] == pytest.approx(0.0, abs=1e-6)
    assert costs[2, 2, 5] == pytest.approx(1.5 * (1 + 2))  # reused: |2|, |1| a step, on average 1.5
    assert costs[0, 3, 4] == 0.0
    assert np.isinf(costs[3, 2]).all()
    assert np.isinf(costs[2, 3, :4]).all()


def test_annealing_and_descent_find_the_best_choice_there_is() -> None:
    good = frozenset({0, 3, 4, 9, 14})
    search = _Search(16, 5, lambda chosen: len(chosen - good) + 0.01 * sum(chosen - good), 60.0)
    assert search.find() == good


def test_a_search_without_time_gives_what_it_has() -> None:
    asked: list[frozenset[int]] = []

    def error(chosen: frozenset[int]) -> float:
        asked.append(chosen)
        time.sleep(0.01)
        return 1.0

    started = time.perf_counter()
    assert len(_Search(50, 20, error, 0.2).find()) == 20
    assert len(asked) > 3
    assert time.perf_counter() - started < 1.0


@pytest.mark.parametrize("name", MEASURING)
def test_a_target_is_met(name: str, problem: Problem, trials: Trials) -> None:
    own = trials.with_samples(range(2))
    own.journal = Journal()
    ratio = 2.2
    schedule = MEASURING[name](problem, Target(flops_ratio=ratio), own, 2.0, no_progress)
    assert schedule.flops_ratio(problem.spec, problem.rows) == pytest.approx(ratio, rel=0.01)
    assert len(MEASURING[name](problem, Target(6), own, 2.0, no_progress).anchors) == 6
    with pytest.raises(PlanError, match="not both"):
        MEASURING[name](problem, Target(6, 2.0), own, 2.0, no_progress)
    fewest = 3 if name in ("lemica", "meancache") else 2  # their intervals are 10 of 12 steps long at most
    for budget in range(1, fewest):
        with pytest.raises(PlanError, match=rf"--budget {budget}: give {fewest} \.\. 12 anchors"):
            MEASURING[name](problem, Target(budget), own, 2.0, no_progress)
    assert len(MEASURING[name](problem, Target(fewest), own, 2.0, no_progress).anchors) == fewest
    with pytest.raises(PlanError, match=r"^--flops-ratio 99: this planner reaches FLOPs ratios of 1\.00 to "):
        MEASURING[name](problem, Target(flops_ratio=99.0), own, 2.0, no_progress)


def test_as_few_anchors_as_intervals_reach_with() -> None:
    costs = np.ones((50, 11))
    assert fewest_chosen(lambda budget: minimax_anchors(costs, budget), 50) == 6  # 49 steps in intervals of 10
    assert fewest_chosen(lambda budget: tuple(range(budget)), 1) == 1


def test_each_is_described() -> None:
    assert MEASURING.keys() == DESCRIPTIONS.keys()
    assert STEPS == 12
