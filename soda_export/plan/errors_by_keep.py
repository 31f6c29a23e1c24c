"""Tabulate a map for a set of anchors: error and FLOPs of every choice at every non-anchor (step, layer, module)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import PlanError
from ..models.flops import module_flops
from ..models.spec import DenoiserSpec
from .sensitivity import RATES, SensitivityMap

_CHOICES = 16  # kept-token counts offered to a module, 0 included


@dataclass(frozen=True, eq=False)
class Choices:
    """steps: the non-anchor steps, [T]. keeps: the kept-token counts on offer, [K], the first 0 (= reuse).

    error: [T, L, M, K] predicted error. flops: [M, K] for one sample.
    """

    steps: NDArray[np.int64]
    keeps: NDArray[np.int64]
    error: NDArray[np.float64]
    flops: NDArray[np.int64]
    num_tokens: int

    def reuse_error(self) -> NDArray[np.float64]:
        """Error of reusing: [T, L, M]."""
        return self.error[..., 0]


def offered_keeps(spec: DenoiserSpec) -> NDArray[np.int64]:
    """0 and at most 15 counts below num_tokens, each a multiple of the model's keep quantum."""
    quantum = spec.keep_quantum
    counts = {-(-spec.num_tokens * j // _CHOICES // quantum) * quantum for j in range(1, _CHOICES)}
    return np.array(sorted({0} | {c for c in counts if c < spec.num_tokens}), np.int64)


def tabulate_choices(
    sensitivity: SensitivityMap, spec: DenoiserSpec, anchors: tuple[int, ...], rows: int
) -> Choices:
    """Errors at the interval each step has from its anchor; prune errors interpolated between the map's rates."""
    total = sensitivity.info.sampler.steps
    steps = np.setdiff1d(np.arange(total), anchors)
    intervals = steps - np.array(anchors)[np.searchsorted(anchors, steps) - 1]
    keeps = offered_keeps(spec)
    if intervals.max(initial=0) > sensitivity.reuse_error.shape[3]:
        raise PlanError("the map lacks an interval that the schedule uses; profile again with more intervals")
    reuse = sensitivity.reuse_error[steps, :, :, intervals - 1].astype(np.float64)  # [T, L, M]
    prune = sensitivity.prune_error[steps, :, :, intervals - 1].astype(np.float64)  # [T, L, M, P]
    curve = np.concatenate([np.zeros((*reuse.shape, 1)), prune, reuse[..., None]], axis=-1)
    error = _interpolate(1.0 - keeps / spec.num_tokens, np.array([0.0, *RATES, 1.0]), curve)
    if not np.isfinite(error).all():
        raise PlanError("the map lacks an interval that the schedule uses; profile again with more intervals")
    per_module = [[rows * module_flops(spec, module, int(keep)) for keep in keeps] for module in spec.modules]
    return Choices(steps, keeps, error, np.array(per_module, np.int64), spec.num_tokens)


def _interpolate(
    points: NDArray[np.float64], grid: NDArray[np.float64], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """np.interp along the last axis of values [..., len(grid)], for all at once: [..., len(points)]."""
    left = np.clip(np.searchsorted(grid, points, side="right") - 1, 0, len(grid) - 2)
    slope = (values[..., left + 1] - values[..., left]) / (grid[left + 1] - grid[left])
    between: NDArray[np.float64] = slope * (points - grid[left]) + values[..., left]
    return np.where(points == grid[-1], values[..., -1:], between)
