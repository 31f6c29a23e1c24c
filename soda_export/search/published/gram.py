"""`gram`: which steps to compute, by what least squares miss of the state at the end of each interval without them.

L2P (arXiv 2604.26365) forecasts an output by weights from the Gram matrix G of that output's values at all steps:

    w = (G[A, A] + ridge)^-1 G[A, t]        residual = G[t, t] - w . G[A, t]

with A the steps whose values are kept. Here the values are those of the sampler: the guided predictions of all steps
and the states between them. From anchors i < j on to the next one, k, a fitted sampler without the model has the state
after j and the predictions of i and j to go on from (sampler/fit.py), so C[i, j, k] is the residual of the state before
k; the state at the end of the run is the last of them. G alone says what a schedule will miss, and dynamic programming
over pairs finds the anchors. Why weights are not fitted for each site, as in L2P: docs/decisions/0041.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ...plan.pairs import pair_anchors, pair_costs
from ...plan.planners.targets import check_one_given
from ...plan.problem import Problem, Target
from ...plan.schedule import Schedule
from ...sampler import check_skips
from ..trial import Trials
from .whole_steps import meet

_RIDGE = 1e-7  # of the mean of the diagonal, against values that are multiples of each other


def plan_gram(
    problem: Problem, target: Target, trials: Trials, seconds: float, progress: Callable[[], None]
) -> Schedule:
    """Raises PlanError, also where the sampler cannot skip steps. seconds: not looked at; it records one full run of
    each sample."""
    check_one_given(target)
    check_skips(trials.sampler, (False, True))
    costs = state_costs(record_gram(trials, progress), problem.steps)
    return meet(problem, target, lambda budget: pair_anchors(costs, budget), skip=True)


def forecast_by_gram(gram: NDArray[np.float64], known: Sequence[int], wanted: int) -> tuple[NDArray[np.float64], float]:
    """Weights of the known values with which their sum comes nearest to the wanted one, and the square of what it
    misses. gram: products of all values with each other."""
    own, cross = gram[np.ix_(known, known)], gram[known, wanted]
    ridge = _RIDGE * own.trace() / len(known) * np.eye(len(known))
    weights: NDArray[np.float64] = np.linalg.solve(own + ridge, cross)
    return weights, max(0.0, float(gram[wanted, wanted] - weights @ cross))


def state_costs(gram: NDArray[np.float64], steps: int) -> NDArray[np.float64]:
    """C[i, j, k] of pair_costs for the matrix of record_gram: mean square missed of the state's first tensor."""
    size = (len(gram) - steps) // (steps + 1)

    def state(step: int) -> range:
        return range(steps + size * step, steps + size * (step + 1))

    def between(i: int, j: int, ends: range) -> list[float]:
        known = [*sorted({i, j}), *state(j + 1)]
        return [forecast_by_gram(gram, known, state(k)[0])[1] if k > j + 1 else 0.0 for k in ends]

    return pair_costs(steps, between)


def record_gram(trials: Trials, progress: Callable[[], None]) -> NDArray[np.float64]:
    """Gram matrix, per element, of the values of full runs of S steps: S guided predictions, then the n tensors of the
    state before each step and after the last."""
    states, predictions = trials.full_run(progress)
    known = [*predictions, *(tensor for state in states for tensor in state)]
    gram = torch.zeros(1, dtype=torch.float64)
    for sample in range(len(trials.samples)):
        values = torch.stack([value[sample].flatten() for value in known]).double().cpu()
        gram = gram + values @ values.T / values.shape[1]
    found: NDArray[np.float64] = (gram / len(trials.samples)).numpy()
    return found
