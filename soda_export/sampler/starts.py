"""Probe how a sampler starts at a step from given latents: the noise they are mixed with, and its first rows there.

A multistep sampler that starts at a step remembers nothing, so its first steps are of lower order than in a whole run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .probe import StepMap, probe_step
from .scheduler import make_scheduler, step_options, timestep_options
from .table import SamplerTable, map_rows, widened_rows

_ALIKE = 1e-6  # of the largest coefficient: rows that differ by less are the same


@dataclass(frozen=True)
class Starts:
    """How a run of S steps starts at each of them.

    levels: float32 [S, 3]: the state before step k is levels[k, 0] * latents + levels[k, 1] * noise; the third column
    is 1 where a strength's first step is rounded down, as pipelines of flows do. rows: float32 [S, W, columns], the
    coefficients of steps k .. k + W - 1 where step k is the first; from then on they are those of a whole run.
    """

    levels: NDArray[np.float32]
    rows: NDArray[np.float32]

    def table(self, own: SamplerTable, first: int) -> SamplerTable:
        """The sampler of a run whose first step is `first`; the rows before it mean nothing."""
        rows = own.coefficients.copy()
        fresh = self.rows[first][: own.steps - first]
        rows[first : first + len(fresh)] = fresh
        return replace(own, coefficients=rows)

    def begin(self, own: SamplerTable, first: int, latents: Tensor, noise: Tensor) -> Tensor:
        """The state before step `first`: [n, B, *latent_shape]. latents, noise: [B, *latent_shape]."""
        signal, share, _ = self.levels[first].tolist()
        state = torch.zeros(own.state_size, *noise.shape, device=noise.device)
        state[0] = signal * latents + share * noise
        return state

    def widened(self, own: SamplerTable, state_size: int) -> Starts:
        """The same over a larger state, whose further tensors are neither read nor written."""
        flat = self.rows.reshape(-1, self.rows.shape[2])
        wide = widened_rows(flat, own.state_size, state_size, own.learned_variance)
        return replace(self, rows=wide.reshape(*self.rows.shape[:2], wide.shape[1]))


def freeze_starts(own: SamplerTable, config: dict[str, Any], eta: float = 0.0) -> Starts | None:
    """Probe the scheduler that `own` was frozen from, with the model's own `config`, at each of its steps.

    None where it cannot start in the middle of a run: PNDM calls the model twice at its first timestep.
    """
    scheduler = make_scheduler(own.name, config, own.learned_variance)
    if hasattr(scheduler, "ets"):
        return None
    options = step_options(own.name, eta)
    memory = len(getattr(scheduler, "model_outputs", ())) + hasattr(scheduler, "last_sample")
    is_flow = hasattr(scheduler, "scale_noise") or bool(scheduler.config.get("use_flow_sigmas"))
    levels, fresh = [], []
    for first in range(own.steps):
        scheduler.set_timesteps(**timestep_options(own.name, config, own.steps))
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        levels.append([*_noise_level(scheduler, first), float(is_flow)])
        if not memory:
            continue
        steps = range(first, min(own.steps, first + memory + 1))
        where = f"{own.name} step {first}"
        maps = [probe_step(scheduler, step, options, own.learned_variance, where) for step in steps]
        if not all(_is_within(step, own.parts) for step in maps):
            return None
        fresh.append(map_rows(maps, own.parts))
    width = _width(own.coefficients, fresh)
    if width > memory:
        return None
    rows = np.zeros((own.steps, width, own.coefficients.shape[1]), np.float32)
    for first, found in enumerate(fresh):
        rows[first, : min(width, len(found))] = found[:width]
    return Starts(np.array(levels, np.float32), rows)


def _noise_level(scheduler: Any, step: int) -> tuple[float, float]:
    """What clean latents and noise are multiplied by before a step."""
    zero, one = torch.zeros(1, 1, 1, 1, dtype=torch.float64), torch.ones(1, 1, 1, 1, dtype=torch.float64)
    timestep = scheduler.timesteps[step : step + 1]

    def mix(latents: Tensor, noise: Tensor) -> float:
        if hasattr(scheduler, "scale_noise"):  # of flows
            return float(scheduler.scale_noise(latents, timestep, noise))
        return float(scheduler.add_noise(latents, noise, timestep))

    return mix(one, zero), mix(zero, one)


def _is_within(step: StepMap, parts: tuple[int, ...]) -> bool:
    """Whether these parts of the state follow from themselves alone."""
    others = [k for k in range(len(step.a)) if k not in parts]
    return not step.a[np.ix_(parts, others)].any()


def _width(own: NDArray[np.float32], fresh: list[NDArray[np.float32]]) -> int:
    """After how many rows every start is as a whole run is."""
    width = 0
    for first, found in enumerate(fresh):
        whole = own[first : first + len(found)]
        differ = np.abs(found - whole).max(axis=1) > _ALIKE * max(1.0, float(np.abs(whole).max()))
        width = max(width, int(np.flatnonzero(differ)[-1]) + 1 if differ.any() else 0)
    return width
