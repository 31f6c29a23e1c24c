"""A sampler that keeps what lies outside a mask: two more tensors of state, and a blend after each step.

The state ends with the clean latents and the initial noise, which never change. After step i the latents outside the
mask are signal * clean + share * noise, as they are before step i + 1 of a run that starts there; after the last step
they are the clean ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .starts import Starts
from .step import advance_state
from .table import SamplerTable, Stepper, widened_rows

KNOWN = 2
"""Tensors at the end of the state."""


def levels_after(starts: Starts) -> NDArray[np.float32]:
    """[S, 2]: signal and share of the known latents after each step."""
    last = np.array([[1.0, 0.0]], np.float32)
    return np.concatenate([starts.levels[1:, :2], last])


def with_known(sampler: SamplerTable, after: NDArray[np.float32]) -> SamplerTable:
    """The sampler with the known latents in its state. Their levels stand in the first row of A, where step programs of
    inpainting bundles look for them; the update itself is the sampler's own."""
    rows = known_rows(sampler.coefficients, sampler.state_size, after, sampler.learned_variance)
    return replace(sampler, coefficients=rows, state_size=sampler.state_size + KNOWN)


def starts_with_known(starts: Starts, sampler: SamplerTable, after: NDArray[np.float32]) -> Starts:
    """The rows of starts of `sampler`, a state without the known latents, with them."""
    n, learned = sampler.state_size, sampler.learned_variance
    of_step = [after[np.minimum(np.arange(sampler.steps) + w, sampler.steps - 1)] for w in range(starts.rows.shape[1])]
    columns = [known_rows(starts.rows[:, w], n, levels, learned) for w, levels in enumerate(of_step)]
    return replace(starts, rows=np.stack(columns, axis=1)) if columns else starts


def known_rows(
    own: NDArray[np.float32], n: int, after: NDArray[np.float32], learned_variance: bool
) -> NDArray[np.float32]:
    """Rows of a state of n tensors with the known latents. after: [len(own), 2]."""
    m = n + KNOWN
    rows = widened_rows(own, n, m, learned_variance)
    a = rows[:, 1 : 1 + m * m].reshape(-1, m, m)
    a[:, 0, n:] = after
    a[:, n, n] = a[:, n + 1, n + 1] = 1.0
    return rows


def advance_known(
    row: Tensor, state: Tensor, output: Tensor, noise: Tensor | None, learned_variance: bool, mask: Tensor
) -> Tensor:
    """advance_state for a row of `with_known`, and the blend. mask: [B, 1 or C, ...], 1 = draw anew."""
    m = state.shape[0]
    n = m - KNOWN
    a = row[1 : 1 + m * m].reshape(m, m)
    b, c = row[1 + m * m : 1 + m * m + m], row[1 + m * m + m : 1 + m * m + 2 * m]
    own = torch.cat([row[:1], a[:n, :n].flatten(), b[:n], c[:n], row[1 + m * m + 2 * m :]])
    after = advance_state(own, state[:n], output, noise, learned_variance)
    known = a[0, n] * state[n] + a[0, n + 1] * state[n + 1]
    blended = mask * after[0] + (1 - mask) * known
    return torch.cat([blended[None], after[1:], state[n:]])


@dataclass(frozen=True, eq=False)
class KnownRegion:
    """A Stepper that draws inside a mask alone. after: `levels_after`. mask: [B, 1 or C, ...]. latents, noise: [B, C,
    ...]."""

    own: Stepper
    after: NDArray[np.float32]
    mask: Tensor
    latents: Tensor
    noise: Tensor

    @property
    def timesteps(self) -> tuple[float, ...]:
        """The sampler's."""
        return self.own.timesteps

    @property
    def stochastic(self) -> bool:
        """The sampler's."""
        return self.own.stochastic

    def begin(self, noise: Tensor) -> Tensor:
        """The sampler's state."""
        return self.own.begin(noise)

    def model_input(self, step: int, state: Tensor) -> Tensor:
        """What the model is called with: [B, C, ...]."""
        return self.own.model_input(step, state)

    def advance(self, step: int, state: Tensor, output: Tensor, noise: Tensor | None) -> Tensor:
        """The sampler's step, and the known latents outside the mask."""
        signal, share = self.after[step].tolist()
        after = self.own.advance(step, state, output, noise)
        known = signal * self.latents + share * self.noise
        return torch.cat([(self.mask * after[0] + (1 - self.mask) * known)[None], after[1:]])
