"""The noise level of each step: how much of the latents is signal and how much noise, and what the model predicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import PlanError
from .scheduler import make_scheduler
from .starts import Starts, freeze_starts
from .table import SamplerTable


@dataclass(frozen=True)
class Levels:
    """Before step i, scale[i] x = alpha[i] clean + sigma[i] noise, with alpha^2 + sigma^2 = 1; of flows alpha + sigma
    = 1 and the scale is 1. kind: the scheduler's prediction_type; of flows `flow_prediction`, noise - clean, of
    RFlow `rflow_prediction`, clean - noise."""

    kind: str
    is_flow: bool
    alpha: tuple[float, ...]
    sigma: tuple[float, ...]
    scale: tuple[float, ...]


def levels_of(own: SamplerTable, config: dict[str, Any], who: str, eta: float = 0.0) -> Levels:
    """Probe the scheduler that `own` was frozen from. config: the model's. who: for messages. eta: as in
    freeze_sampler. Raises PlanError where latents are no mixture of a clean sample and noise."""
    starts = freeze_starts(own, config, eta)
    if starts is None:
        raise PlanError(f"{who}: {own.name} mixes no clean sample with noise; choose another --sampler")
    return levels_of_starts(own, config, starts)


def levels_of_starts(own: SamplerTable, config: dict[str, Any], starts: Starts) -> Levels:
    """Those that `starts` found for `own`, which both were frozen from the model's `config`."""
    is_flow = bool(starts.levels[0, 2])
    alpha, sigma, scale = [], [], []
    for signal, share, _ in starts.levels.tolist():
        size = 1.0 if is_flow else math.hypot(signal, share)
        alpha.append(signal / size)
        sigma.append(share / size)
        scale.append(1 / size)
    kind = str(config.get("prediction_type", "epsilon"))
    if is_flow:
        kind = "rflow_prediction" if own.name == "rflow" else "flow_prediction"
    return Levels(kind, is_flow, tuple(alpha), tuple(sigma), tuple(scale))


def clean_sample(levels: Levels, step: int) -> tuple[float, float] | None:
    """(p, q): the clean sample is p x + q prediction. None where a prediction of this kind says nothing of one."""
    alpha, sigma, scale = levels.alpha[step], levels.sigma[step], levels.scale[step]
    if levels.kind == "epsilon" and alpha:
        return scale / alpha, -sigma / alpha
    if levels.kind == "sample":
        return 0.0, 1.0
    if levels.kind == "flow_prediction":  # noise - clean
        return 1.0, -sigma
    if levels.kind == "rflow_prediction":  # clean - noise
        return 1.0, sigma
    if levels.kind == "v_prediction":  # alpha noise - sigma clean
        return alpha * scale, -sigma
    return None


def preview_levels(own: SamplerTable, config: dict[str, Any], starts: Starts | None) -> NDArray[np.float32] | None:
    """[S, 2]: the shares of latents and prediction in the clean sample before each step. None where there are none."""
    if starts is None:
        return None
    levels = levels_of_starts(own, config, starts)
    shares = [clean_sample(levels, step) for step in range(own.steps)]
    known = [share for share in shares if share is not None]
    return np.array(known, np.float32) if len(known) == own.steps else None


def training_betas(own: SamplerTable, config: dict[str, Any]) -> Sequence[float]:
    """The beta of the training step that each step's timestep lies in."""
    betas = make_scheduler(own.name, config, own.learned_variance).betas.double()
    return [float(betas[int(timestep)]) for timestep in own.timesteps]
