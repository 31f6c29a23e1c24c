"""A map read at another number of steps."""

from __future__ import annotations

import numpy as np
import pytest

from soda_export.plan.sensitivity import MAX_INTERVAL, RATES, MapInfo, SensitivityMap
from soda_export.profile.resample import resample_map
from tests.plan.problems import random_map


def smooth_map(steps: int, power: float) -> SensitivityMap:
    """An error that depends on the timesteps alone: (1 + u) * span ** power, u in 0..1 along the run."""
    like = random_map(steps=steps)
    u = np.linspace(0.0, 1.0, steps)
    own = np.full((steps, MAX_INTERVAL), np.nan)
    for t in range(steps):
        for n in range(1, min(t, MAX_INTERVAL) + 1):
            own[t, n - 1] = (1 + u[t]) * (u[t] - u[t - n]) ** power
    reuse = np.broadcast_to(own[:, None], like.reuse_error.shape).astype(np.float32)
    prune = (reuse[..., None] * np.array(RATES)).astype(np.float32)
    return SensitivityMap(like.info, reuse, 0.1 * reuse, prune, 0.1 * prune)


def timesteps(steps: int) -> list[float]:
    return np.linspace(1000.0, 0.0, steps).tolist()


def test_the_same_steps_give_the_same_map() -> None:
    given = random_map()
    again = resample_map(given, timesteps(50), timesteps(50))
    np.testing.assert_allclose(again.reuse_error, given.reuse_error, rtol=1e-6)
    np.testing.assert_allclose(again.prune_error, given.prune_error, rtol=1e-6)
    known = np.isfinite(again.hidden_error)
    np.testing.assert_allclose(again.hidden_error[known], given.hidden_error[known])


@pytest.mark.parametrize("steps", [20, 30, 80, 120])
@pytest.mark.parametrize("power", [1.0, 1.5])
def test_errors_that_follow_the_noise_level_are_found_again(steps: int, power: float) -> None:
    found = resample_map(smooth_map(50, power), timesteps(50), timesteps(steps))
    expected = smooth_map(steps, power)
    assert isinstance(found.info, MapInfo)
    assert found.info.sampler.steps == steps
    assert (np.isnan(found.reuse_error) == np.isnan(expected.reuse_error)).all()
    late = slice(steps // 4, None)  # early on few intervals exist to continue from
    valid = np.isfinite(expected.reuse_error[late])
    ratio = found.reuse_error[late][valid] / expected.reuse_error[late][valid]
    print(f"50 -> {steps} steps, power {power}: ratio {ratio.min():.3f} .. {ratio.max():.3f}")
    assert ratio.min() > 0.9
    assert ratio.max() < 1.1
