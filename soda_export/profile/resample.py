"""A map measured at one number of steps, read at another: errors follow the noise level, not the step's number.

A reuse at step t of what was computed n steps before bridges a span of timesteps. The map's own error for that span is
looked up at the same timestep: between its steps and intervals it is interpolated, a span shorter than one of its
steps, or longer than it measured, is continued by the power law of the nearest two intervals. No torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..plan.sensitivity import MAX_INTERVAL, SensitivityMap


def resample_map(sensitivity: SensitivityMap, measured: Sequence[float], wanted: Sequence[float]) -> SensitivityMap:
    """The map for a run over the timesteps `wanted` [S'], measured over those of `measured` [S], both noisiest first.

    Everything else (model, sampler, guidance) stays; the spreads are those of the places that were looked up.
    """
    own = _own_steps(measured, wanted)
    info = sensitivity.info
    info = msgspec.structs.replace(info, sampler=msgspec.structs.replace(info.sampler, steps=len(wanted)))
    return SensitivityMap(
        info, _look_up(sensitivity.reuse_error, own), _look_up(sensitivity.reuse_spread, own),
        _look_up(sensitivity.prune_error, own), _look_up(sensitivity.prune_spread, own),
        sensitivity.stability,
    )  # fmt: skip


def _own_steps(measured: Sequence[float], wanted: Sequence[float]) -> NDArray[np.float64]:
    """Where each wanted timestep lies between the measured steps: [S'], 0 .. S - 1."""
    timesteps = np.asarray(measured, np.float64)
    return np.interp(-np.asarray(wanted, np.float64), -timesteps, np.arange(len(timesteps), dtype=np.float64))


def _look_up(table: NDArray[np.float32], own: NDArray[np.float64]) -> NDArray[np.float32]:
    """table: [S, K, I] or [S, K, I, P] -> the same at own steps."""
    by_interval = np.moveaxis(table.astype(np.float64), 2, 1)  # [S, I, K, ...]
    result = np.full((len(own), MAX_INTERVAL, *by_interval.shape[2:]), np.nan)
    for t, place in enumerate(own):
        for n in range(1, min(t, MAX_INTERVAL) + 1):
            result[t, n - 1] = _at(by_interval, place, max(place - own[t - n], 1e-6))
    return np.moveaxis(result, 1, 2).astype(np.float32)


def _at(by_interval: NDArray[np.float64], place: float, span: float) -> NDArray[np.float64]:
    """The error at a place between steps, over a span of steps."""
    low = min(int(place), len(by_interval) - 1)
    high, share = min(low + 1, len(by_interval) - 1), place - low
    found = _over(by_interval[low], low, span)
    if share <= 0.0 or high == low:
        return _over(by_interval[high], high, span) if low == 0 else found
    other = _over(by_interval[high], high, span)
    return other if low == 0 else (1.0 - share) * found + share * other


def _over(errors: NDArray[np.float64], step: int, span: float) -> NDArray[np.float64]:
    """errors: [I, ...] of one step, of which the first min(step, I) exist -> the error over a span."""
    known = max(1, min(step, MAX_INTERVAL))
    found: NDArray[np.float64]
    if span <= 1.0:
        found = errors[0] * span ** (_power(errors, 2) if known > 1 else 1.0)
    elif span <= known:
        below = min(int(span), known - 1)
        share = span - below
        found = (1.0 - share) * errors[below - 1] + share * errors[below]
    else:
        found = errors[known - 1] * (span / known) ** (_power(errors, known) if known > 1 else 1.0)
    return found


def _power(errors: NDArray[np.float64], interval: int) -> NDArray[np.float64]:
    """Slope of the logarithms between an interval and the one below."""
    here, below = np.maximum(errors[interval - 1], 1e-12), np.maximum(errors[interval - 2], 1e-12)
    power: NDArray[np.float64] = np.clip(np.log(here / below) / np.log(interval / (interval - 1)), 0.0, 3.0)
    return power
