"""Calibrate policies: the misfit's predictions and rows by least squares, and thresholds for a mean number of calls."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..eager.adaptive import Group, run_policy
from ..eager.sampling import Sampling
from ..policy.adaptive import AdaptivePolicy
from ..policy.catalog import FIXED
from ..policy.easycache import make_easycache
from ..policy.misfit import EARLIEST, GAP, MAX_RUN, make_misfit, variant_of
from ..policy.options import PolicyOptions
from ..policy.sada import PAPER, RELEASED, make_sada
from ..sampler import SamplerTable, advance_state, check_skips, least_squares
from .trial import Trials

log = logging.getLogger(__name__)
_RIDGE = 1e-6
_LEAST_MISFIT = 1e-9
_GRID, _MOST_WEIGHED = 4, 12  # steps between two whose weight is measured, at least; parts that they divide a run into
_LEAST_GROUP = 8  # samples that a row is fitted on; smaller groups keep what the fills make
_ROUNDS, _CLOSE = 10, 0.02
_WEIGHED = 8  # samples that steps are weighed on


def fit_fills(
    states: Sequence[Tensor], predictions: Sequence[Tensor]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[S, variants, 3]: the weights of the last two predictions and the latents that come nearest to the prediction of
    each step, for every distance to them, on the path with everything computed; and [S, variants]: what is left of its
    squared norm."""
    steps = len(predictions)
    known = torch.stack([t.flatten() for t in (*predictions, *(state[0] for state in states[:steps]))])
    gram = (known.double() @ known.double().T).numpy()
    fills = np.zeros((steps, GAP * (MAX_RUN + 1), 3))
    fills[..., 0] = 1.0
    misfits = np.ones((steps, GAP * (MAX_RUN + 1)))
    for step in range(steps):
        for run in range(1, MAX_RUN + 2):
            for gap in range(1, GAP + 1):
                last, before = step - run, step - run - gap
                if last < 0:
                    continue
                columns = [last, before, steps + step] if before >= 0 else [last]  # one prediction is all there is
                normal = gram[np.ix_(columns, columns)]
                scale = np.sqrt(np.diag(normal))
                scaled = normal / np.outer(scale, scale) + _RIDGE * np.eye(len(columns))
                weights = np.linalg.solve(scaled, gram[columns, step] / scale) / scale
                fills[step, variant_of(gap, run - 1)] = weights if before >= 0 else (weights[0], 0.0, 0.0)
                left = gram[step, step] - 2 * weights @ gram[columns, step] + weights @ normal @ weights
                misfits[step, variant_of(gap, run - 1)] = max(left / gram[step, step], _LEAST_MISFIT)
    return fills, misfits


def weighed_steps(steps: int) -> list[int]:
    """The steps whose weight is measured. From each the rest of the run is played, so there are no more of them in a
    long run than in one of 48 steps."""
    between = max(_GRID, round(steps / _MOST_WEIGHED))
    return sorted({*range(2, steps - 1, between), steps - 2} & set(range(2, steps)))


def weigh_steps(
    sampling: Sampling, sampler: SamplerTable, states: Sequence[Tensor], predictions: Sequence[Tensor],
    fills: NDArray[np.float64],
) -> NDArray[np.float64]:  # fmt: skip
    """[S]: the mean squared error of the final sample for one of 1 in a step's prediction, relative to its norm.

    Measured at every few steps, where one step is taken without the model and the others with it; in between
    logarithms are interpolated.
    """
    steps, found = len(predictions), []
    grid = weighed_steps(steps)
    for step in grid:
        c1, c2, cx = fills[step, variant_of(1, 0)]
        stand_in = c1 * predictions[step - 1] + c2 * predictions[step - 2] + cx * states[step][0]
        state = sampling.advance(sampler, step, states[step], stand_in)
        final = sampling.run(sampler, state=state, first=step + 1)[0]
        misfit = ((stand_in - predictions[step]) ** 2).mean() / (predictions[step] ** 2).mean()
        found.append(float(((final - states[-1][0]) ** 2).mean() / misfit.clamp_min(_LEAST_MISFIT)))
    weights: NDArray[np.float64] = np.exp(np.interp(np.arange(steps), grid, np.log(np.maximum(found, 1e-30))))
    return weights


class ClosedLoop:
    """Rows of a policy fitted while it runs: each group of samples that do the same is led back to the path."""

    def __init__(self, policy: AdaptivePolicy, path: Sequence[Tensor]) -> None:
        self.policy, self._path = policy, path
        self.rows = {name: table.copy() for name, table in policy.rows.items()}
        self._names = list(policy.rows)

    def row(
        self, step: int, group: Group, state: Tensor, prediction: Tensor | None, noise: Tensor | None,
        members: list[int],
    ) -> NDArray[np.float32]:  # fmt: skip
        """The row that a group takes, fitted on its samples where they are enough."""
        action, variant = group
        row: NDArray[np.float32] = self.rows[self._names[action]][step, variant]
        if len(members) < _LEAST_GROUP:
            return row
        n, m = self.policy.own.state_size, self.policy.state_size
        output = state[0] if prediction is None else prediction
        reached = advance_state(torch.from_numpy(row), state, output, noise, False)
        wanted = self._path[step + 1][:n, members] - reached[:n]
        known = state if prediction is None else torch.cat([state, prediction[None]])
        change = least_squares(known, wanted)
        row[1 : 1 + m * m].reshape(m, m)[:n] += change[:, :m]
        if prediction is not None:
            row[1 + m * m : 1 + m * m + n] += change[:, m]
        return row


def calibrate_policy(trials: Trials, config: dict[str, Any], options: PolicyOptions) -> AdaptivePolicy:
    """The policy that is asked for, with the mean calls of the trials' samples. config: of the model's scheduler.
    Raises PlanError where this sampler cannot have it."""
    own = trials.sampler
    check_skips(own, [False] * EARLIEST + [True])
    if options.policy in FIXED:
        policy = make_sada(own, config, PAPER if options.policy == "sada-paper" else RELEASED)
        return _played(trials, policy)
    if options.policy == "easycache":
        if options.threshold:
            return _played(trials, make_easycache(own, options.threshold))
        _, met = meet_calls(lambda limit: _played(trials, make_easycache(own, limit)), options.calls, 1e-4, 10.0)
        return met
    return _calibrate_misfit(trials, options.calls)


def _played(trials: Trials, policy: AdaptivePolicy) -> AdaptivePolicy:
    return replace(policy, calls=float(run_policy(trials.sampling, policy).calls.mean()))


def _calibrate_misfit(trials: Trials, calls: float) -> AdaptivePolicy:
    states, predictions = trials.sampling.record(trials.sampler)
    fills, misfits = fit_fills(states, predictions)
    few = [state[:, :_WEIGHED] for state in states], [prediction[:_WEIGHED] for prediction in predictions]
    weights = weigh_steps(trials.sampling.of(range(len(few[1][0]))), trials.sampler, *few, fills)
    most = float(misfits.max() * weights.max())
    rows: dict[str, NDArray[np.float32]] | None = None  # what one threshold's samples never do, another's did

    def make(error: float) -> AdaptivePolicy:
        nonlocal rows
        policy = make_misfit(trials.sampler, fills, misfits, error / weights, rows)
        fitting = ClosedLoop(policy, states)
        result = run_policy(trials.sampling, policy, row_of=fitting.row)
        rows = fitting.rows
        return replace(policy, rows=rows, calls=float(result.calls.mean()))

    error, _ = meet_calls(make, calls, most * 1e-8, most)
    return make(error)


def meet_calls(
    make: Callable[[float], AdaptivePolicy], calls: float, low: float, high: float
) -> tuple[float, AdaptivePolicy]:
    """The threshold, and its policy, whose mean calls are nearest: between `low` and `high`, by the line through the
    two nearest ones in the threshold's logarithm."""
    found: list[tuple[float, float, AdaptivePolicy]] = []
    under, over = (np.log(low), np.inf), (np.log(high), -np.inf)  # logarithm and calls on each side
    while len(found) < _ROUNDS:
        guess = (under[0] + over[0]) / 2
        if np.isfinite(under[1]) and np.isfinite(over[1]) and under[1] > over[1]:
            share = (under[1] - calls) / (under[1] - over[1])
            guess = under[0] + min(max(share, 0.1), 0.9) * (over[0] - under[0])
        policy = make(float(np.exp(guess)))
        log.info("policy: threshold %.3g, %.2f calls", np.exp(guess), policy.calls)
        found.append((abs(policy.calls - calls), float(np.exp(guess)), policy))
        if found[-1][0] <= _CLOSE * calls:
            break
        if policy.calls > calls:
            under = (guess, policy.calls)
        else:
            over = (guess, policy.calls)
    return min(found, key=lambda each: each[0])[1:]
