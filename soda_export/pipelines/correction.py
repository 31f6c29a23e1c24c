"""Make a prediction of what a schedule corrects, so that the pipeline's own scheduler goes where the bundle goes.

A bundle's steps may bring coefficients of their own: fitted ones, and those of steps that do not call the model. Let x'
be the latents that the schedule's row leads to. The sampler's own row, z' = A z + b e, leads there from the prediction
e* = (x' - (A z)_x) / b_x. This is affine in the predictions, with the same part for both rows of guidance, so each row
is corrected alone and the pipeline guides afterwards.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_NOTHING = 1e-6  # a prediction of so small a weight decides nothing


class Correction:
    """Follows one run. `scheduled`, `own`: [S, columns], rows of the schedule and of the sampler (BUNDLE.md, 10), both
    of a state of n tensors."""

    def __init__(self, scheduled: NDArray[np.float32], own: NDArray[np.float32], n: int) -> None:
        self._scheduled = torch.from_numpy(scheduled.astype(np.float64))
        self._own = torch.from_numpy(own.astype(np.float64))
        self._n = n
        self._led = self._followed = torch.zeros(0)

    def begin(self, rows: int, shape: tuple[int, ...]) -> None:
        """Remember nothing: rows of latents of that shape."""
        self._led = torch.zeros(self._n, rows, *shape, dtype=torch.float64)
        self._followed = self._led.clone()

    def correct(self, step: int, model_input: Tensor, prediction: Tensor | None) -> Tensor:
        """[rows, C or 2C, ...] -> the same in the pipeline's place. model_input: [rows, C, ...]. prediction: None where
        the step does not call the model."""
        latents = model_input.double() / self._own[step, 0]
        self._led[0] = self._followed[0] = latents
        given = torch.zeros_like(latents) if prediction is None else prediction[:, : latents.shape[1]].double()
        self._led = self._advance(self._scheduled[step], self._led, given)
        weight = float(self._own[step, 1 + self._n * self._n])
        made = given
        if abs(weight) > _NOTHING:
            unmoved = self._advance(self._own[step], self._followed, torch.zeros_like(given))
            made = (self._led[0] - unmoved[0]) / weight
        self._followed = self._advance(self._own[step], self._followed, made)
        if prediction is None:
            return made.float()
        return torch.cat([made.float(), prediction[:, latents.shape[1] :]], dim=1)

    def _advance(self, row: Tensor, state: Tensor, prediction: Tensor) -> Tensor:
        """z' = A z + b e."""
        n = self._n
        a, b = row[1 : 1 + n * n].reshape(n, n), row[1 + n * n : 1 + n * n + n]
        moved = (a @ state.flatten(1)).reshape(state.shape)
        return moved + b.reshape(n, *[1] * (state.dim() - 1)) * prediction
