"""From a sweep's rows to comparisons of one planner with each other one, on the same samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..eval.metrics import Interval, geometric_mean_ratio, rmse, rmse_ratio
from .rows import RowFile
from .unit import Key, SweepRow

_ONE_DB = 10**0.1  # between squared errors
_OURS = frozenset({"best", "gram", "skip-fitted", "misfit"})
BEST_OF_ALL, BEST_PUBLISHED = "the best of them", "the best published one"
"""In the place of another planner: at each target the one that the main planner gains least on, on the samples that
both drew. That is the one of least RMSE, where all drew the same ones."""
_Errors = dict[float, tuple[NDArray[np.float64], NDArray[np.float64]]]
"""Target FLOPs ratio -> squared errors of the main planner and of another one, of the same samples."""


class Pair(msgspec.Struct, frozen=True):
    """RMSE of the main planner / RMSE of `other`: below 1 the main one is closer to the unaccelerated samples.

    ratios: target FLOPs ratio -> that, where both have rows of the same seeds. geometric_mean: over those targets.
    typical: the same of the mean of the samples' own RMSEs, which no single sample decides.
    """

    other: str
    ratios: dict[float, Interval]
    geometric_mean: Interval | None
    typical: Interval | None


class Summary(msgspec.Struct, frozen=True):
    """Comparisons of one planner, `planner`, with all others."""

    planner: str
    pairs: tuple[Pair, ...]


class Point(msgspec.Struct, frozen=True):
    """A planner's rows of all seeds at one target."""

    planner: str
    target_flops_ratio: float
    flops_ratio: float
    rmse: Interval
    latency_s: float | None


def summarise_pairs(rows: RowFile, planner: str) -> Summary:
    """Compare `planner` with every other one by paired bootstrap over the samples that both drew."""
    scored = [row for row in rows.rows if not row.error]
    names = dict.fromkeys(row.planner for row in scored if row.planner != planner)
    others = {name: _errors_beside(rows, scored, planner, name) for name in names}
    published = {name: errors for name, errors in others.items() if name not in _OURS}
    pairs = [_pair(name, errors) for name, errors in others.items()]
    if len(published) > 1:
        pairs.append(_pair(BEST_PUBLISHED, _least(published)))
    if len(others) > max(1, len(published)):
        pairs.append(_pair(BEST_OF_ALL, _least(others)))
    return Summary(planner, tuple(pairs))


def shares_near_best(rows: RowFile) -> dict[Key, float]:
    """Of each row, the share of its samples that are within 1 dB of the best that any planner drew of them at that
    target.

    How well a schedule that all prompts share does against each prompt's own: the measure of the Golden Path
    Hypothesis, which compares with all schedules where this compares with the sweep's.
    """
    scored = [row for row in rows.rows if not row.error]
    shares = {}
    for target, seeds in dict.fromkeys((row.target_flops_ratio, row.seeds) for row in scored):
        mine = [row for row in scored if (row.target_flops_ratio, row.seeds) == (target, seeds)]
        errors = np.stack([rows.errors(row) for row in mine])
        near = errors <= errors.min(axis=0) * _ONE_DB
        shares.update({row.key: float(share) for row, share in zip(mine, near.mean(axis=1), strict=True)})
    return shares


def pool_points(rows: RowFile) -> list[Point]:
    """One point a planner and target: errors of all seeds together. Ordered by planner and FLOPs ratio."""
    points = []
    scored = [row for row in rows.rows if not row.error]
    for planner, target in dict.fromkeys((row.planner, row.target_flops_ratio) for row in scored):
        mine = [row for row in scored if (row.planner, row.target_flops_ratio) == (planner, target)]
        latency = next((row.latency_s for row in mine if row.latency_s is not None), None)
        assert mine[0].flops_ratio is not None
        points.append(Point(planner, target, mine[0].flops_ratio, rmse(_errors(rows, mine)), latency))
    return sorted(points, key=lambda point: (point.planner, point.flops_ratio))


def _errors_beside(rows: RowFile, scored: list[SweepRow], planner: str, other: str) -> _Errors:
    """Of samples that both drew."""
    mine = {(row.target_flops_ratio, row.seeds): row for row in scored if row.planner == planner}
    theirs = {(row.target_flops_ratio, row.seeds): row for row in scored if row.planner == other}
    both = [key for key in mine if key in theirs]
    errors = {}
    for target in dict.fromkeys(target for target, _ in both):
        keys = [key for key in both if key[0] == target]
        errors[target] = _errors(rows, [mine[k] for k in keys]), _errors(rows, [theirs[k] for k in keys])
    return errors


def _least(errors: Mapping[str, _Errors]) -> _Errors:
    """At each target what the planner has that the main one gains least on. Of different samples RMSEs say nothing of
    each other: a single one may decide about each."""
    targets = dict.fromkeys(target for found in errors.values() for target in found)
    beside = {target: [found[target] for found in errors.values() if target in found] for target in targets}
    return {target: max(pairs, key=_share_left) for target, pairs in beside.items()}


def _share_left(pair: tuple[NDArray[np.float64], NDArray[np.float64]]) -> float:
    """Of the other's mean squared error, what the main planner has."""
    mine, theirs = (float(errors.mean()) for errors in pair)
    return mine / theirs if theirs else np.inf


def _pair(other: str, errors: _Errors) -> Pair:
    ratios = {target: rmse_ratio(*pair) for target, pair in errors.items()}
    kept = {target: ratio for target, ratio in ratios.items() if ratio is not None}
    points = [errors[target] for target in kept]
    return Pair(other, kept, geometric_mean_ratio(points), _typical_ratio(points))


def _typical_ratio(points: list[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> Interval | None:
    """Ratio of the means of the samples' own RMSEs: of roots, where geometric_mean_ratio takes the root of a mean."""
    found = geometric_mean_ratio([(np.sqrt(mine), np.sqrt(theirs)) for mine, theirs in points])
    return None if found is None else Interval(found.mean**2, found.low**2, found.high**2)


def _errors(rows: RowFile, chosen: Iterable[SweepRow]) -> NDArray[np.float64]:
    return np.concatenate([rows.errors(row) for row in chosen])
