"""Tabulate a map for a set of anchors: error and FLOPs of every choice at every other step and leaf site."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import PlanError
from ..models.flops import site_flops
from ..models.spec import ModelSpec, Site
from .sensitivity import RATES, SensitivityMap

_CHOICES = 16  # kept-token counts offered to a site, 0 included


@dataclass(frozen=True, eq=False)
class Choices:
    """steps: those that are no anchors, [T]. keeps: kept-token counts on offer to each leaf site, [P, C], rising; the
    first is 0 (= reuse), and the last repeats where there are fewer.

    error: [T, P, C] predicted error. flops: [P, C] for one sample. tokens: [P].
    """

    steps: NDArray[np.int64]
    keeps: NDArray[np.int64]
    error: NDArray[np.float64]
    flops: NDArray[np.int64]
    tokens: NDArray[np.int64]

    @property
    def reuse_error(self) -> NDArray[np.float64]:
        """Error of reusing: [T, P]."""
        return self.error[..., 0]

    @property
    def renewable(self) -> NDArray[np.bool_]:
        """Which leaf sites have a choice, [P]."""
        return np.asarray(self.keeps.max(axis=1, initial=0) > 0)


def offered_keeps(site: Site) -> list[int]:
    """0 and at most 15 counts below the site's tokens, each a multiple of its keep quantum."""
    quantum = site.keep_quantum
    counts = {-(-site.tokens * j // _CHOICES // quantum) * quantum for j in range(1, _CHOICES)}
    return sorted({0} | {c for c in counts if c < site.tokens})


def tabulate_choices(
    sensitivity: SensitivityMap, spec: ModelSpec, renewable: NDArray[np.bool_], anchors: tuple[int, ...], rows: int
) -> Choices:
    """Errors at the interval each step has from its anchor; prune errors interpolated between the map's rates.

    renewable: which leaf sites may compute a subset of their tokens, [P]; the others are offered reuse alone.
    """
    total, leaves = sensitivity.info.sampler.steps, list(spec.leaves)
    steps = np.setdiff1d(np.arange(total), anchors)
    intervals = steps - np.array(anchors)[np.searchsorted(anchors, steps) - 1]
    if intervals.max(initial=0) > sensitivity.reuse_error.shape[2]:
        raise PlanError("the map lacks an interval that the schedule uses; profile again with more intervals")
    sites = [spec.sites[k] for k in leaves]
    offers = [offered_keeps(site) if may else [0] for site, may in zip(sites, renewable, strict=True)]
    most = max((len(offer) for offer in offers), default=1)
    keeps = np.array([[*offer, *[offer[-1]] * (most - len(offer))] for offer in offers], np.int64)
    reuse = sensitivity.reuse_error[steps, :, intervals - 1][:, leaves].astype(np.float64)  # [T, P]
    prune = sensitivity.prune_error[steps, :, intervals - 1][:, leaves].astype(np.float64)  # [T, P, R]
    grid, error = np.array([0.0, *RATES, 1.0]), np.repeat(reuse[..., None], most, axis=2)
    for p in np.flatnonzero(renewable):
        curve = np.concatenate([np.zeros((len(steps), 1)), prune[:, p], reuse[:, p, None]], axis=-1)
        error[:, p] = _interpolate(1.0 - keeps[p] / sites[p].tokens, grid, curve)
    if not np.isfinite(error).all():
        raise PlanError("the map lacks an interval or a site that the schedule uses; profile again")
    flops = [[rows * site_flops(site, int(keep)) for keep in row] for site, row in zip(sites, keeps, strict=True)]
    return Choices(steps, keeps, error, np.array(flops, np.int64), np.array([site.tokens for site in sites], np.int64))


def _interpolate(
    points: NDArray[np.float64], grid: NDArray[np.float64], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """np.interp along the last axis of values [..., len(grid)], for all at once: [..., len(points)]."""
    left = np.clip(np.searchsorted(grid, points, side="right") - 1, 0, len(grid) - 2)
    slope = (values[..., left + 1] - values[..., left]) / (grid[left + 1] - grid[left])
    between: NDArray[np.float64] = slope * (points - grid[left]) + values[..., left]
    return np.where(points == grid[-1], values[..., -1:], between)
