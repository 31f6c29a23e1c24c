"""Fit a sampler's coefficients to a schedule: least squares leads every step back to the full model's path.

A schedule's predictions are late: a reused one belongs to an earlier, noisier step. In a frozen schedule they are
always late by as much, so a good part of the error is the same combination of known tensors in every generation: of the
state, of the prediction, and of the two computed before it. A step of a frozen sampler is linear in those, so nothing
but its coefficients has to change. They are fitted on calibration samples step by step, each on the states that the
steps before it have led to (docs/decisions/0023).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .memory import with_memory
from .step import advance_state
from .table import SamplerTable

_RIDGE = 1e-6  # of each tensor's norm, against tensors that are multiples of each other
_NOTHING = 1e-5  # of the state: a difference that is rounding


class FittingSampler:
    """A sampler that fits its coefficients while it runs a schedule; as a Stepper it stands in for a SamplerTable.

    Its state has tensors more than the sampler's own, for earlier predictions (memory.py). path: the state before each
    step and after the last with everything computed, S + 1 of [n, B, C, ...], from the same noise. renews: for each
    step, whether its prediction is a new one. skips: whether it does not call the model; default never.
    """

    def __init__(
        self, own: SamplerTable, path: Sequence[Tensor], renews: Sequence[bool], skips: Sequence[bool] = ()
    ) -> None:
        self.own, self._path, self._skips = own, path, tuple(skips) or (False,) * own.steps
        self._wide = with_memory(own, renews, self._skips)
        self._rows: NDArray[np.float32] = self._wide.coefficients.copy()

    @property
    def fitted(self) -> SamplerTable:
        """The sampler with the coefficients of the last run."""
        return self.own.with_coefficients(self._rows.copy())

    @property
    def timesteps(self) -> tuple[float, ...]:
        """The sampler's."""
        return self.own.timesteps

    @property
    def stochastic(self) -> bool:
        """The sampler's."""
        return self.own.stochastic

    def begin(self, noise: Tensor) -> Tensor:
        """[B, C, ...] -> the state [n + memory, B, C, ...]."""
        return self._wide.begin(noise)

    def resume(self, state: Tensor, predictions: Sequence[Tensor]) -> Tensor:
        """The state after a computed step. state: [n, B, C, H, W]. predictions: the computed ones, latest first, as
        many as are known."""
        size = self._wide.state_size - self.own.state_size
        kept = list(predictions if any(self._skips) else predictions[1:])[:size]
        return torch.cat([state, torch.stack(kept + [torch.zeros_like(state[0])] * (size - len(kept)))])

    def model_input(self, step: int, state: Tensor) -> Tensor:
        """What the model is called with: [B, C, ...]."""
        return self._wide.model_input(step, state)

    def advance(self, step: int, state: Tensor, output: Tensor, noise: Tensor | None) -> Tensor:
        """Fit the step's row to where it should lead from `state`, and take the step."""
        n, m = self.own.state_size, self._wide.state_size
        row = self._wide.coefficients[step].copy()
        a, b = row[1 : 1 + m * m].reshape(m, m), row[1 + m * m : 1 + m * m + m]
        learned = self.own.learned_variance
        reached = advance_state(torch.from_numpy(row).to(state.device), state, output, noise, learned)[:n]
        target = self._path[step + 1]
        if float((target - reached).norm()) > _NOTHING * float(target.norm()):
            known = state if self._skips[step] else torch.cat([state, output[None, :, : state.shape[2]]])
            change = least_squares(known, target - reached)
            a[:n] += change[:, :m]
            if not self._skips[step]:
                b[:n] += change[:, m]
        self._rows[step] = row
        return advance_state(torch.from_numpy(row).to(state.device), state, output, noise, learned)


def least_squares(known: Tensor, wanted: Tensor) -> NDArray[np.float32]:
    """[k, ...], [n, ...] -> the [n, k] weights whose sums of the known come nearest to the wanted; in float64, with a
    ridge against tensors that are multiples of each other."""
    x, y = known.flatten(1).double(), wanted.flatten(1).double()
    norm = x.norm(dim=1).clamp_min(torch.finfo(torch.float64).tiny)[:, None]
    x = x / norm
    gram = x @ x.T + _RIDGE * torch.eye(len(x), dtype=torch.float64, device=x.device)
    solved: NDArray[np.float32] = (torch.linalg.solve(gram, x @ y.T) / norm).T.float().cpu().numpy()
    return solved
