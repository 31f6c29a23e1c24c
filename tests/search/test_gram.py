"""Least squares from Gram matrices: by hand, and on full runs of a toy."""

from __future__ import annotations

import numpy as np
import pytest

from soda_export.errors import PlanError
from soda_export.plan import pairs
from soda_export.plan.problem import Problem, Target
from soda_export.sampler import freeze_sampler
from soda_export.search import best
from soda_export.search.best import search_best
from soda_export.search.journal import Journal
from soda_export.search.published.gram import final_costs, forecast_by_gram, gram_of, plan_gram, state_costs
from soda_export.search.trial import Trials
from tests.search.conftest import SAMPLER, STEPS


def test_weights_and_what_they_miss_by_hand() -> None:
    values = np.array([[1.0, 0.0, 0.0], [1.0, 2.0, 0.0], [9.0, 9.0, 9.0], [3.0, 4.0, 5.0]])
    weights, missed = forecast_by_gram(values @ values.T, [0, 1], 3)
    assert weights == pytest.approx([1.0, 2.0], abs=1e-5)  # 1 (1, 0, 0) + 2 (1, 2, 0) = (3, 4, 0)
    assert missed == pytest.approx(25.0, abs=1e-4)
    _, nothing = forecast_by_gram(values @ values.T, [0, 1, 2], 3)
    assert nothing == pytest.approx(0.0, abs=1e-3)


def test_a_state_is_what_the_sampler_makes_of_the_one_before(trials: Trials) -> None:
    states, predictions = trials.full_run()
    gram = gram_of(predictions, states)
    squares = [float((state[0] ** 2).mean()) for state in states]
    assert np.diag(gram)[STEPS:] == pytest.approx(squares, rel=1e-6)
    for step in range(STEPS):
        weights, missed = forecast_by_gram(gram, [STEPS + step, step], STEPS + step + 1)
        assert missed <= 1e-4 * squares[step + 1]
        assert weights == pytest.approx(SAMPLER.coefficients[step, 1:3], abs=0.05)


def test_an_interval_costs_what_is_missed_of_the_state_at_its_end() -> None:
    known = {0: [1.0, 0.0, 0.0, 0.0], 1: [0.0, 1.0, 0.0, 0.0], 5: [0.0, 0.0, 1.0, 0.0]}  # e0, e1 and the state after 1
    values = np.zeros((3 + 4, 4))
    for place, value in known.items():
        values[place] = value
    values[6] = [1.0, 2.0, 3.0, 4.0]  # the end of the run of three steps
    costs = state_costs(values @ values.T, 3)
    assert costs[0, 1, 3] == pytest.approx(16.0, rel=1e-4)
    assert costs[1, 1, 3] == pytest.approx(17.0, rel=1e-4)  # without e0
    assert costs[0, 1, 2] == costs[1, 2, 3] == 0.0


def test_a_miss_counts_by_how_far_it_moves_the_final_sample(trials: Trials) -> None:
    """The run goes on in full from what least squares make of the state before a step, of prediction 0 and state 1."""
    states, predictions = trials.full_run()
    gram = gram_of(predictions, states)
    plain, costs = state_costs(gram, STEPS), final_costs(trials, lambda: None)
    assert costs[0, 0, STEPS] == pytest.approx(plain[0, 0, STEPS], rel=1e-3)  # nothing follows
    weights, _ = forecast_by_gram(gram, [0, STEPS + 1], STEPS + 3)
    forecast = (weights[0] * predictions[0] + weights[1] * states[1][0]).float()[None]
    final = trials.sampling.run(trials.sampler, state=forecast, first=3)[0]
    moved, missed = (
        (one - other).flatten(1).square().mean(dim=1).numpy()
        for one, other in ((final, states[-1][0]), (forecast[0], states[3][0]))
    )
    assert costs[0, 0, 3] / plain[0, 0, 3] == pytest.approx(np.exp(np.log(moved / missed).mean()), rel=1e-3)


def test_the_best_of_a_run_too_long_for_it_is_found_without_it(
    problem: Problem, trials: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (best, pairs):
        monkeypatch.setattr(module, "MOST_STEPS", STEPS - 1)
    few = trials.with_samples(range(2))
    few.journal = Journal()
    with pytest.raises(PlanError, match=f"--steps {STEPS}: "):
        plan_gram(problem, Target(6), few, 1.0, lambda: None)
    found = search_best(problem, Target(6), few, seconds=2.0, max_engines=12, progress=lambda *_: None)
    assert "gram" not in found.portfolio
    assert "skip-fitted" in found.portfolio


def test_samplers_that_cannot_skip_are_refused(problem: Problem, trials: Trials) -> None:
    other = trials.with_samples(range(1))
    config = {"clip_sample": False, "variance_type": "learned_range"}
    other.sampler = freeze_sampler("ddpm", config, STEPS, learned_variance=True)
    with pytest.raises(PlanError, match="skip: ddpm takes the size of its noise from the model"):
        plan_gram(problem, Target(6), other, 1.0, lambda: None)
