"""`gram`: which steps to compute, by what least squares miss of the state at the end of each interval without them.

L2P (arXiv 2604.26365) forecasts an output by weights from the Gram matrix G of that output's values at all steps:

    w = (G[A, A] + ridge)^-1 G[A, t]        residual = G[t, t] - w . G[A, t]

with A the steps whose values are kept. Here the values are those of the sampler: the guided predictions of all steps
and the states between them. From anchors i < j on to the next one, k, a fitted sampler without the model has the state
after j and the predictions of i and j to go on from (sampler/fit.py), so what an interval misses is the residual of the
state before k; the state at the end of the run is the last of them. How far that moves the final sample is measured for
a few k, with everything computed from there on. So

    C[i, j, k] = residual(i, j, k) * moved(k)

is what an interval adds to the mean squared error, and dynamic programming over pairs finds the anchors. Why weights
are not fitted for each site, as in L2P: docs/decisions/0041.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...plan.pairs import check_steps, pair_anchors, pair_costs
from ...plan.planners.targets import check_one_given
from ...plan.problem import Problem, Target
from ...plan.schedule import Schedule
from ...sampler import check_skips
from ..objective import mean_squares
from ..trial import Trials
from .whole_steps import meet

_RIDGE = 1e-7  # of the mean of the diagonal, against values that are multiples of each other
_WEIGHED_SAMPLES, _WEIGHED_STATES = 8, 5  # that tell how far a miss moves the final sample
_GAP = 3  # of the intervals whose misses tell it
_TINY = 1e-20


def plan_gram(
    problem: Problem, target: Target, trials: Trials, seconds: float, progress: Callable[[], None]
) -> Schedule:
    """Raises PlanError, also where the sampler cannot skip steps. seconds: not looked at; it records one full run of
    each sample, and for some of them two or three more."""
    check_one_given(target)
    check_skips(trials.sampler, (False, True))
    check_steps(problem.steps)  # before anything is recorded
    return plan_by_costs(final_costs(trials, progress), problem, target)


def plan_by_costs(costs: NDArray[np.float64], problem: Problem, target: Target) -> Schedule:
    """The schedule of least C [S, S, S + 1]. Raises PlanError."""
    check_one_given(target)
    return meet(problem, target, lambda budget: pair_anchors(costs, budget), skip=True)


def final_costs(trials: Trials, progress: Callable[[], None]) -> NDArray[np.float64]:
    """C[i, j, k] of pair_costs: mean squared error of the final samples."""
    states, predictions = trials.full_run(progress)
    gram = gram_of(predictions, states)
    moved = _moved(trials, states, predictions, gram, progress)
    costs: NDArray[np.float64] = state_costs(gram, len(predictions)) * moved
    return costs


def forecast_by_gram(gram: NDArray[np.float64], known: Sequence[int], wanted: int) -> tuple[NDArray[np.float64], float]:
    """Weights of the known values with which their sum comes nearest to the wanted one, and the square of what it
    misses. gram: products of all values with each other."""
    own, cross = gram[np.ix_(known, known)], gram[known, wanted]
    ridge = _RIDGE * own.trace() / len(known) * np.eye(len(known))
    weights: NDArray[np.float64] = np.linalg.solve(own + ridge, cross)
    return weights, max(0.0, float(gram[wanted, wanted] - weights @ cross))


def state_costs(gram: NDArray[np.float64], steps: int) -> NDArray[np.float64]:
    """residual(i, j, k), as pair_costs has it, of the state's first tensor: a mean square."""
    size = (len(gram) - steps) // (steps + 1)

    def between(i: int, j: int, ends: range) -> list[float]:
        known = [*sorted({i, j}), *_state_places(steps, size, j + 1)]
        missed = {k: forecast_by_gram(gram, known, _state_places(steps, size, k)[0])[1] for k in ends if k > j + 1}
        return [missed.get(k, 0.0) for k in ends]

    return pair_costs(steps, between)


def gram_of(predictions: Sequence[Tensor], states: Sequence[Tensor]) -> NDArray[np.float64]:
    """Gram matrix, per element, of the values of full runs of S steps: S guided predictions [B, ...], then the n
    tensors [B, ...] of the state before each step and after the last."""
    known = [*predictions, *(tensor for state in states for tensor in state)]
    gram, samples = torch.zeros(1, dtype=torch.float64), len(known[0])
    for sample in range(samples):
        values = torch.stack([value[sample].flatten() for value in known]).double().cpu()
        gram = gram + values @ values.T / values.shape[1]
    found: NDArray[np.float64] = (gram / samples).numpy()
    return found


def _moved(
    trials: Trials, states: Sequence[Tensor], predictions: Sequence[Tensor], gram: NDArray[np.float64],
    progress: Callable[[], None],
) -> NDArray[np.float64]:  # fmt: skip
    """[S + 1]: squared error of the final sample, by the objective, for one of 1 in the state before each step. Of a
    typical sample (the mean of logarithms): of few samples one that ends elsewhere would decide. Interpolated between
    the states that are measured."""
    steps, size = len(predictions), states[0].shape[0]
    few = trials.with_samples(trials.samples[:_WEIGHED_SAMPLES])
    count = len(few.samples)
    gap, logs = min(_GAP, steps), []
    grid = sorted({round(k) for k in np.linspace(gap, steps, _WEIGHED_STATES)})
    for k in grid:
        j = k - gap
        known = [j, *_state_places(steps, size, j + 1)]
        values = torch.stack([predictions[j][:count], *states[j + 1][:, :count]])
        weights = np.stack([forecast_by_gram(gram, known, place)[0] for place in _state_places(steps, size, k)])
        forecast = torch.einsum("nk,k...->n...", torch.from_numpy(weights).to(values), values)
        missed = mean_squares(forecast[0] - states[k][0, :count])
        final = few.squares(few.sampling.run(few.sampler, state=forecast, first=k, observe=few.check_time)[0])
        logs.append(np.log(np.maximum(final, _TINY) / np.maximum(missed, _TINY)).mean())
        progress()
    found: NDArray[np.float64] = np.exp(np.interp(np.arange(steps + 1), grid, logs))
    return found


def _state_places(steps: int, size: int, step: int) -> range:
    """Where the Gram matrix has the state before a step."""
    return range(steps + size * step, steps + size * (step + 1))
