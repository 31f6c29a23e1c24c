"""Turn a sampler's name and a model's scheduler config into the table of coefficients of its whole run.

With the timesteps fixed, a step maps a small state z = (x, h1..) and the model's output e to
    model input = s * x,    z' = A z + b e + c noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ModelError, PlanError
from .probe import StepMap, probe_step
from .scheduler import CONFIG, WITH_ETA, make_scheduler, step_options, timestep_options
from .step import advance_state


class Stepper(Protocol):
    """What a run needs of a sampler. Shapes as in SamplerTable."""

    @property
    def timesteps(self) -> tuple[float, ...]: ...

    @property
    def stochastic(self) -> bool: ...

    def begin(self, noise: Tensor) -> Tensor: ...

    def model_input(self, step: int, state: Tensor) -> Tensor: ...

    def advance(self, step: int, state: Tensor, output: Tensor, noise: Tensor | None) -> Tensor: ...


@dataclass(frozen=True)
class SamplerTable:
    """A frozen sampler of S steps with a state of n tensors: the latents [B, C, ...] of 1 to 4 axes a sample, then what
    a multistep sampler remembers.

    timesteps: what the model is told, int where it is whole. coefficients: float32 [S, columns], the columns being
    those of soda_runtime.signature.coefficient_count. learned_variance: the noise's size comes from the model's last C
    output channels; without, they are ignored. parts: which parts of the scheduler's memory the tensors are (StepMap).
    """

    name: str
    timesteps: tuple[float, ...]
    state_size: int
    initial_scale: float
    coefficients: NDArray[np.float32]
    learned_variance: bool = False
    parts: tuple[int, ...] = ()

    @property
    def steps(self) -> int:
        """Number of model calls."""
        return len(self.timesteps)

    @property
    def stochastic(self) -> bool:
        """Whether any step adds noise."""
        n = self.state_size
        return bool(np.any(self.coefficients[:, 1 + n * n + n : 1 + n * n + 2 * n]))

    def begin(self, noise: Tensor) -> Tensor:
        """Initial noise [B, C, ...] -> the state z = (x, h1..) [n, B, C, ...]."""
        state = torch.zeros(self.state_size, *noise.shape, device=noise.device)
        state[0] = noise * self.initial_scale
        return state

    def model_input(self, step: int, state: Tensor) -> Tensor:
        """What the model is called with: [B, C, ...]."""
        return float(self.coefficients[step, 0]) * state[0]

    def advance(self, step: int, state: Tensor, output: Tensor, noise: Tensor | None) -> Tensor:
        """The next state. output: [B, C or 2C, ...], noise: [B, C, ...] or None."""
        row = torch.from_numpy(self.coefficients[step]).to(state.device)
        return advance_state(row, state, output, noise, self.learned_variance)

    def with_coefficients(self, coefficients: NDArray[np.float32] | None) -> SamplerTable:
        """The same sampler with another table; None leaves it as it is. The number of columns says how large the state
        is. Raises PlanError where it cannot be this sampler's."""
        if coefficients is None:
            return self
        least = self.coefficients.shape[1]
        steps, columns = coefficients.shape
        size = self.state_size_of(columns)
        if steps != self.steps or columns < least or (size + 1) ** 2 + 2 * self.learned_variance != columns:
            raise PlanError(
                f"the plan's coefficients are {steps} rows of {columns}, which are not a table of {self.name} with "
                f"{self.steps} steps ({least} columns, or those of a larger state); plan again"
            )
        return replace(self, coefficients=coefficients, state_size=size)

    def state_size_of(self, columns: int) -> int:
        """Tensors in the state that rows of so many columns are of."""
        return math.isqrt(columns - 2 * self.learned_variance) - 1  # 1 + n n + 2 n columns

    def widened(self, state_size: int) -> SamplerTable:
        """The same sampler over a larger state, whose further tensors it neither reads nor writes."""
        rows = widened_rows(self.coefficients, self.state_size, state_size, self.learned_variance)
        return replace(self, coefficients=rows, state_size=state_size)


def widened_rows(own: NDArray[np.float32], n: int, m: int, learned_variance: bool) -> NDArray[np.float32]:
    """Rows of a state of n tensors as those of one of m."""
    rows = np.zeros((len(own), (m + 1) ** 2 + 2 * learned_variance), np.float32)
    rows[:, 0] = own[:, 0]
    rows[:, 1 : 1 + m * m].reshape(-1, m, m)[:, :n, :n] = own[:, 1 : 1 + n * n].reshape(-1, n, n)
    for part in range(2):  # b, then c
        rows[:, 1 + m * m + part * m :][:, :n] = own[:, 1 + n * n + part * n :][:, :n]
    if learned_variance:
        rows[:, -2:] = own[:, -2:]
    return rows


def freeze_sampler(
    sampler: str, config: dict[str, Any], steps: int, eta: float = 0.0, learned_variance: bool = False
) -> SamplerTable:
    """Probe the scheduler `sampler`, with the model's own `config`, over a run of `steps` steps. Raises ModelError.

    eta: DDIM's share of DDPM's noise, TCD's gamma, 0..1. learned_variance: whether the model gives 2C channels; the
    table uses the second half only for ddpm with a variance_type of learned_range.
    """
    scheduler = make_scheduler(sampler, config, learned_variance)
    limit = scheduler.config.num_train_timesteps
    if not 1 <= steps <= limit:
        raise ModelError(f"--steps {steps}: the scheduler was trained with {limit} timesteps; choose 1..{limit}")
    if eta and sampler not in WITH_ETA:
        raise ModelError(f"--eta {eta}: only {' and '.join(WITH_ETA)} take it; leave it out for {sampler}")
    if not 0.0 <= eta <= 1.0:
        raise ModelError(f"--eta {eta}: must be within 0 .. 1")
    options = step_options(sampler, eta)
    learned = scheduler.config.get("variance_type") == "learned_range"
    try:
        scheduler.set_timesteps(**timestep_options(sampler, config, steps))
        timesteps = tuple(_exact(t) for t in scheduler.timesteps.tolist())
        if len(timesteps) != steps:
            raise ValueError(f"its timestep_spacing gives {len(timesteps)}")
        if hasattr(scheduler, "set_begin_index"):  # it would start at the second of two equal first timesteps
            scheduler.set_begin_index(0)
        maps = [probe_step(scheduler, i, options, learned, f"{sampler} step {i}") for i in range(steps)]
    except (IndexError, RuntimeError, TypeError, ValueError) as error:  # a singular matrix is a RuntimeError
        reason = " ".join(str(error).split())
        raise ModelError(f"{CONFIG}: {sampler} cannot make {steps} steps of it: {reason}") from None
    kept = _live_parts(maps)
    scale = float(scheduler.init_noise_sigma) if hasattr(scheduler, "init_noise_sigma") else 1.0  # flows have none
    return SamplerTable(sampler, timesteps, len(kept), scale, map_rows(maps, kept), learned, tuple(kept))


def map_rows(maps: Sequence[StepMap], kept: Sequence[int]) -> NDArray[np.float32]:
    """Rows of coefficients, of those parts of the state."""
    k = list(kept)
    rows = [[m.s, *m.a[np.ix_(k, k)].ravel(), *m.b[k], *m.c[k], *m.log_variance] for m in maps]
    return np.array(rows, np.float32)


def _exact(timestep: float) -> float:
    """A whole number as an int, which is how discrete schedulers and their manifests spell it."""
    return int(timestep) if timestep == int(timestep) else timestep


def _live_parts(maps: Sequence[StepMap]) -> list[int]:
    """The parts of the state whose value at some point of the run still influences the final x.

    x, part 0, always does: where a step forgets it, as the last one of a model of clean samples does, the model does
    not.
    """
    needed, live = {0}, {0}
    for step in reversed(maps):
        live = {0} | {k for k in range(len(step.a)) if any(step.a[j, k] != 0 for j in live)}
        needed |= live
    return sorted(needed)
