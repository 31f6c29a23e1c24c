"""Figures and their intervals, against formulas, scipy and repeated sampling."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from soda_export.eval.metrics import (
    MAX_PSNR,
    frechet,
    frechet_distance,
    geometric_mean_ratio,
    mean,
    psnr,
    rmse,
    rmse_ratio,
    sample_errors,
    share,
)

RNG = np.random.default_rng(0)


def test_rmse_is_the_root_of_the_mean_over_samples_and_elements() -> None:
    found, reference = RNG.standard_normal((2, 50, 3, 4, 4)).astype(np.float32)
    errors = sample_errors(found, reference)
    assert errors.shape == (50,)
    figure = rmse(errors)
    assert figure.mean == pytest.approx(float(np.sqrt(np.mean((found - reference) ** 2))), rel=1e-6)
    assert figure.low < figure.mean < figure.high


def test_psnr_follows_the_mean_squared_error_and_has_a_ceiling() -> None:
    assert psnr(np.full(10, 1e-4)).mean == pytest.approx(40.0)
    assert psnr(np.full(10, 1e-4), peak=10.0).mean == pytest.approx(60.0)
    assert psnr(np.zeros(10)).mean == MAX_PSNR
    figure = psnr(RNG.gamma(2.0, 1e-4, 100))
    assert figure.low < figure.mean < figure.high


def test_a_95_percent_interval_holds_the_truth_about_95_times_of_100() -> None:
    truth, hits = np.sqrt(2e-4), 0
    for seed in range(200):
        figure = rmse(np.random.default_rng(seed).gamma(2.0, 1e-4, 100))
        hits += figure.low <= truth <= figure.high
    assert 180 <= hits <= 200


def test_a_share_has_an_interval_within_0_and_1() -> None:
    verdicts = np.arange(100) >= 3
    figure = share(verdicts)
    assert figure.mean == pytest.approx(0.97)
    assert (figure.low, figure.high) == pytest.approx((0.9155, 0.9897), abs=1e-4)  # Wilson's, from a table
    certain = share(np.ones(100, bool))
    assert (certain.mean, certain.high) == (1.0, 1.0)
    assert certain.low == pytest.approx(0.963, abs=1e-3)


def test_a_mean_of_numbers_is_their_mean() -> None:
    figure = mean(RNG.standard_normal(1000) + 5.0)
    assert figure.low < figure.mean < figure.high
    assert figure.mean == pytest.approx(5.0, abs=0.1)
    assert figure.high - figure.low == pytest.approx(2 * 1.96 / np.sqrt(1000), rel=0.1)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 40), st.integers(2, 40), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_frechet_distance_agrees_with_the_matrix_square_root(n: int, m: int, d: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((n, d)), 0.5 + rng.standard_normal((m, d)) @ rng.standard_normal((d, d))
    covariances = [np.atleast_2d(np.cov(x, rowvar=False)) + 1e-12 * np.eye(d) for x in (a, b)]
    cross = np.sqrt(np.clip(scipy.linalg.eigvals(covariances[0] @ covariances[1]).real, 0, None)).sum()
    traces = np.trace(covariances[0]) + np.trace(covariances[1])
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + traces - 2 * cross
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-4, abs=1e-4)


def test_a_frechet_interval_lies_around_the_distance_and_paired_ones_are_narrower() -> None:
    features = RNG.standard_normal((200, 16))
    others = features + 0.1 * RNG.standard_normal((200, 16))
    paired, apart = frechet(features, others, paired=True), frechet(features, others, paired=False)
    assert paired.mean == apart.mean == frechet_distance(features, others)
    assert paired.low <= paired.mean <= paired.high
    assert apart.low <= apart.mean <= apart.high
    assert paired.high - paired.low < apart.high - apart.low
    assert frechet(features, features, paired=True).mean == pytest.approx(0.0, abs=1e-9)


def test_ratios_of_the_same_samples_are_surer_than_each_error() -> None:
    hard = RNG.gamma(0.5, 1e-3, 100)  # some samples are much harder than others, for both systems
    errors, others = hard * RNG.uniform(0.9, 1.1, 100), 4 * hard * RNG.uniform(0.9, 1.1, 100)
    ratio = rmse_ratio(errors, others)
    assert ratio is not None
    assert ratio.mean == pytest.approx(float(np.sqrt(errors.mean() / others.mean())))
    assert ratio.low < ratio.mean < ratio.high
    alone = rmse(errors)
    assert (ratio.high - ratio.low) / ratio.mean < 0.3 * (alone.high - alone.low) / alone.mean


def test_the_geometric_mean_of_ratios_is_over_points() -> None:
    errors = RNG.gamma(2.0, 1e-4, 64)
    figure = geometric_mean_ratio([(errors, 4 * errors), (errors, errors / 9)])  # 1/2 and 3
    assert figure is not None
    assert figure.mean == pytest.approx(float(np.sqrt(1.5)))
    assert figure.high - figure.low == pytest.approx(0.0, abs=1e-9)
    assert geometric_mean_ratio([]) is None
    assert rmse_ratio(errors, np.zeros(64)) is None


def test_intervals_are_the_same_in_every_run() -> None:
    errors = RNG.gamma(2.0, 1e-4, 64)
    assert rmse(errors) == rmse(errors.copy())
