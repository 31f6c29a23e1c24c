"""Calibrate policies: the misfit's predictions and rows by least squares, and thresholds for a mean number of calls."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..eager.adaptive import AdaptiveResult, Group
from ..policy import AdaptivePolicy
from ..policy.misfit import GAP, MAX_RUN, variant_of
from ..sampler import advance_state
from .trial import Trials

log = logging.getLogger(__name__)
_RIDGE = 1e-6
_LEAST_GROUP = 8  # samples that a row of a variant of its own is fitted on; smaller groups share their step's
_ROUNDS, _CLOSE = 8, 0.01


def full_run(trials: Trials) -> tuple[list[Tensor], list[Tensor]]:
    """The states before each step and after the last, and the predictions, with everything computed."""
    sampler, states, predictions = trials.sampler, trials.states, []
    channels = trials.spec.latent_shape[0]
    for step in range(sampler.steps):
        predictions.append(trials.sampling.predict(sampler, step, states[step])[:, :channels])
    return states, predictions


def fit_fills(states: Sequence[Tensor], predictions: Sequence[Tensor]) -> NDArray[np.float64]:
    """[S, variants, 3]: the weights of the last two predictions and the latents that come nearest to the prediction of
    each step, for every distance to them. On the path with everything computed."""
    steps = len(predictions)
    known = torch.stack([t.flatten() for t in (*predictions, *(state[0] for state in states[:steps]))])
    gram = (known.double() @ known.double().T).numpy()
    fills = np.zeros((steps, GAP * (MAX_RUN + 1), 3))
    fills[..., 0] = 1.0
    for step in range(steps):
        for run in range(1, MAX_RUN + 2):
            for gap in range(1, GAP + 1):
                last, before = step - run, step - run - gap
                if before < 0:
                    continue
                columns = [last, before, steps + step]
                normal = gram[np.ix_(columns, columns)]
                scale = np.sqrt(np.diag(normal))
                scaled = normal / np.outer(scale, scale) + _RIDGE * np.eye(3)
                fills[step, variant_of(gap, run - 1)] = np.linalg.solve(scaled, gram[columns, step] / scale) / scale
    return fills


class ClosedLoop:
    """Rows of a policy fitted while it runs: each group of samples that do the same is led back to the path."""

    def __init__(self, policy: AdaptivePolicy, path: Sequence[Tensor]) -> None:
        self.policy, self._path = policy, path
        self.rows = {name: table.copy() for name, table in policy.rows.items()}
        self._names = list(policy.rows)
        self._shared: dict[tuple[int, int], list[tuple[Group, Tensor, Tensor | None, list[int]]]] = {}

    def row(
        self, step: int, group: Group, state: Tensor, prediction: Tensor | None, members: list[int]
    ) -> NDArray[np.float32]:
        """The row that a group takes, fitted on its samples where they are enough."""
        action, variant = group
        row: NDArray[np.float32] = self.rows[self._names[action]][step, variant]
        if len(members) < _LEAST_GROUP:
            return row
        n, m = self.policy.own.state_size, self.policy.state_size
        output = state[0] if prediction is None else prediction
        reached = advance_state(torch.from_numpy(row), state, output, None, False)
        wanted = self._path[step + 1][:n, members] - reached[:n]
        known = state if prediction is None else torch.cat([state, prediction[None]])
        change = _least_squares(known, wanted)
        row[1 : 1 + m * m].reshape(m, m)[:n] += change[:, :m]
        if prediction is not None:
            row[1 + m * m : 1 + m * m + n] += change[:, m]
        return row


def _least_squares(known: Tensor, wanted: Tensor) -> NDArray[np.float32]:
    x, y = known.flatten(1).double(), wanted.flatten(1).double()
    norm = x.norm(dim=1).clamp_min(torch.finfo(torch.float64).tiny)[:, None]
    x = x / norm
    normal = x @ x.T + _RIDGE * torch.eye(len(x), dtype=torch.float64)
    weights = torch.linalg.solve(normal, x @ y.T).T / norm.T
    return np.asarray(weights.float().numpy(), np.float32)


def meet_calls(
    make: Callable[[float], tuple[AdaptivePolicy, AdaptiveResult]], calls: float, low: float, high: float
) -> tuple[AdaptivePolicy, AdaptiveResult]:
    """The policy whose mean calls are nearest: thresholds halved in logarithm between `low` and `high`."""
    best: tuple[AdaptivePolicy, AdaptiveResult] | None = None
    for _ in range(_ROUNDS):
        middle = float(np.sqrt(low * high))
        policy, result = make(middle)
        mean = float(result.calls.mean())
        log.info("policy: threshold %.3g, %.2f calls", middle, mean)
        if best is None or abs(mean - calls) < abs(best[1].calls.mean() - calls):
            best = policy, result
        if abs(mean - calls) <= _CLOSE * calls:
            break
        low, high = (middle, high) if mean > calls else (low, middle)
    assert best is not None
    return best
