"""Turn per-sample scores into figures with 95 % intervals: RMSE, PSNR, shares, Frechet distances, ratios.

A bootstrap draws as many samples as there are, with repetition, and computes the figure anew; it says how far another
set of seeds might lie. One seed draws the same samples for every figure, so figures of the same samples are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

RESAMPLES = 1000
FRECHET_RESAMPLES = 200  # each costs two factorisations; its interval's ends are known to a tenth of its width
MAX_PSNR = 120.0  # dB; errors below are the rounding of float32
_INTERVAL = (2.5, 97.5)  # percentiles
_NORMAL = 1.959964  # the normal distribution's 97.5 percentile
_SEED = 0


class Interval(msgspec.Struct, frozen=True):
    """A figure over all samples, and where it lies with 95 %: its 2.5 and 97.5 percentiles over resamples."""

    mean: float
    low: float
    high: float


def sample_errors(found: NDArray[np.float32], reference: NDArray[np.float32]) -> Values:
    """Mean squared error of each sample: [n, ...] -> [n]."""
    difference = found.astype(np.float64) - reference
    errors: Values = np.square(difference).reshape(len(found), -1).mean(axis=1)
    return errors


def rmse(errors: Values) -> Interval:
    """Root of the mean over samples and elements. errors: [n] of sample_errors."""
    return _interval(errors, np.sqrt)


def psnr(errors: Values, peak: float = 1.0) -> Interval:
    """Peak signal-to-noise ratio in dB of the mean squared error, at most MAX_PSNR.

    peak: range of the values: 1 for images in 0..1; for latents, which have no range of their own, the reference
    samples' largest value minus their smallest.
    """
    if peak <= 0.0:  # a constant reference
        return Interval(0.0, 0.0, 0.0)
    least = 10.0 ** (-MAX_PSNR / 10.0)
    return _interval(errors / peak**2, lambda mean: -10.0 * np.log10(np.maximum(mean, least)))


def mean(values: Values) -> Interval:
    """Mean of one number a sample [n]."""
    return _interval(values, lambda means: means)


def share(verdicts: NDArray[np.bool_]) -> Interval:
    """Share of true verdicts [n], with Wilson's interval: where all are true, a bootstrap would have no width."""
    n, found = len(verdicts), float(verdicts.mean())
    middle = (found + _NORMAL**2 / (2 * n)) / (1 + _NORMAL**2 / n)
    half = _NORMAL / (1 + _NORMAL**2 / n) * float(np.sqrt(found * (1 - found) / n + _NORMAL**2 / (4 * n**2)))
    return Interval(found, max(0.0, middle - half), min(1.0, middle + half))


def frechet(features: Values, others: Values, *, paired: bool) -> Interval:
    """Frechet distance of features [n, d] to others [m, d], over FRECHET_RESAMPLES.

    paired: row i of both belongs to the same sample, and they are drawn together; otherwise `others` stays as it is.
    A resample has fewer distinct samples, which lifts every distance: the percentiles are moved back by as much.
    """
    whole = frechet_distance(features, others)
    draws = [
        frechet_distance(features[rows], others[rows] if paired else others)
        for rows in _draws(len(features), FRECHET_RESAMPLES)
    ]
    low, high = np.percentile(draws, _INTERVAL) + (whole - np.mean(draws))
    return Interval(whole, max(0.0, float(low)), float(high))


def frechet_distance(a: Values, b: Values) -> float:
    """Frechet distance (Heusel et al. 2017, eq. 6) of two feature sets [n, d] and [m, d] under a Gaussian fit."""
    root_a, root_b = _covariance_root(a), _covariance_root(b)
    # tr sqrt(A B) with A = Ra' Ra and B = Rb' Rb is the sum of the singular values of Ra Rb'
    cross = float(np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum())
    mean_term = float(np.square(a.mean(axis=0) - b.mean(axis=0)).sum())
    total = mean_term + float(np.square(root_a).sum() + np.square(root_b).sum()) - 2.0 * cross
    return max(0.0, total)


def rmse_ratio(errors: Values, others: Values) -> Interval | None:
    """RMSE of one system / RMSE of another on the same samples [n]; None where the other makes no error."""
    return geometric_mean_ratio([(errors, others)])


def geometric_mean_ratio(points: Sequence[tuple[Values, Values]]) -> Interval | None:
    """Geometric mean, over points, of the ratio of two systems' RMSEs; None where either makes no error at a point.

    points: (errors [n], others [n]) of the same samples. Sample i of every point of the same size is drawn together,
    as its noise is the same at all of them.
    """
    if not points or any(errors.mean() == 0.0 or others.mean() == 0.0 for errors, others in points):
        return None
    whole, draws = [], []
    for errors, others in points:
        whole.append(_log_ratio(errors.mean(), others.mean()))
        rows = _draws(len(errors), RESAMPLES)
        draws.append(_log_ratio(errors[rows].mean(axis=1), others[rows].mean(axis=1)))
    low, high = np.percentile(np.exp(np.mean(draws, axis=0)), _INTERVAL)
    return Interval(float(np.exp(np.mean(whole))), float(low), float(high))


def _log_ratio(errors: Values, others: Values) -> Values:
    """log of the ratio of root mean squares; a resample without any error counts as the smallest number."""
    tiny = np.finfo(np.float64).tiny
    ratio: Values = 0.5 * (np.log(np.maximum(errors, tiny)) - np.log(np.maximum(others, tiny)))
    return ratio


def _covariance_root(features: Values) -> Values:
    """R with R' R = covariance of features [n, d], of no more than d rows."""
    centred: Values = (features - features.mean(axis=0)) / np.sqrt(max(1, len(features) - 1))
    return np.asarray(np.linalg.qr(centred, mode="r")) if len(features) > features.shape[1] else centred


def _draws(count: int, resamples: int) -> NDArray[np.int64]:
    return np.random.default_rng(_SEED).integers(count, size=(resamples, count))


def _interval(values: Values, figure: Callable[[Values], Values]) -> Interval:
    """A figure of the mean of values [n]."""
    low, high = np.percentile(figure(values[_draws(len(values), RESAMPLES)].mean(axis=1)), _INTERVAL)
    return Interval(float(figure(values.mean())), float(low), float(high))
