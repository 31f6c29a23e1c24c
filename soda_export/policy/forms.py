"""Linear forms over a sampler's state with more tensors in it: rows of a step, and signals after it.

The state is the sampler's own tensors and then named ones. A form is a weight for each of them and for the step's
guided prediction `e`; all that policies do to a state is linear in these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import InternalError
from ..sampler import SamplerTable

Form = NDArray[np.float64]
"""[n + 1]: weights of the tensors, then of the prediction."""


class WideState:
    """A sampler's state and named tensors behind it; `x` is the latents, `e` the step's prediction."""

    def __init__(self, own: SamplerTable, extra: Sequence[str]) -> None:
        self.own, self.size = own, own.state_size + len(extra)
        self._wide = own.widened(self.size)
        self._places = {"x": 0, **{name: own.state_size + k for k, name in enumerate(extra)}, "e": self.size}

    def form(self, **weights: float) -> Form:
        """A form by the names of what it sums."""
        made = np.zeros(self.size + 1)
        for name, weight in weights.items():
            made[self._places[name]] += weight
        return made

    def scale(self, step: int) -> float:
        """What the latents are multiplied by before the model sees them."""
        return float(self.own.coefficients[step, 0])

    def row(self, step: int, changes: Mapping[str, Form], prediction: Form | None = None) -> NDArray[np.float32]:
        """The row of a step: the sampler's own step, and what becomes of the named tensors; those without a change
        stay. prediction: what stands in for the model's where it is not called; no form may then use `e`."""
        n, m, row = self.own.state_size, self.size, self._wide.coefficients[step].astype(np.float64)
        a, b = row[1 : 1 + m * m].reshape(m, m), row[1 + m * m : 1 + m * m + m]
        a[n:, n:] = np.eye(m - n)
        for name, form in changes.items():
            a[self._places[name]], b[self._places[name]] = form[:m], form[m]
        if prediction is not None:
            a[:n] += np.outer(b[:n], prediction[:m])
            b[:n] = 0.0
            if b.any() or prediction[m]:
                raise InternalError(f"step {step}: a row uses the prediction of a model that is not called")
        narrow: NDArray[np.float32] = row.astype(np.float32)
        return narrow

    def signal(
        self, before: Mapping[str, float] = {}, after: Mapping[str, float] = {}, constant: float = 0.0
    ) -> NDArray[np.float64]:
        """A form of a signal: weights of the tensors before the step, of those after it, and of 1: [2 n + 1]."""
        made = np.zeros(2 * self.size + 1)
        for offset, weights in ((0, before), (self.size, after)):
            for name, weight in weights.items():
                made[offset + self._places[name]] += weight
        made[-1] = constant
        return made
