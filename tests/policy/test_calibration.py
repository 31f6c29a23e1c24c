"""Calibration with a sampler that adds noise: what a step adds is known, and no error of a prediction."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from soda_export.eager.adaptive import run_policy
from soda_export.eager.sampling import Sampling, run_noise
from soda_export.policy.misfit import GAP, variant_of
from soda_export.policy.options import PolicyOptions
from soda_export.sampler import SamplerTable, freeze_sampler, levels_of
from soda_export.search.gate import calibrate_policy, fit_fills, weighed_steps

SHAPE, STEPS, SAMPLES = (1, 6, 6), 12, 16
CONFIG = {"beta_schedule": "scaled_linear", "prediction_type": "epsilon", "clip_sample": False}


def gaussian_trials(own: SamplerTable, seed: int) -> Any:
    """Stands in for search.trial.Trials: the exact denoiser of data with one variance predicts a multiple of x."""
    levels = levels_of(own, CONFIG, "test")
    gains = [sigma / (sigma**2 + 0.25 * alpha**2) for alpha, sigma in zip(levels.alpha, levels.sigma, strict=True)]

    def call(latents: Tensor, timestep: float, *_: object) -> Tensor:
        return latents * float(gains[own.timesteps.index(timestep)])

    spec = SimpleNamespace(latent_shape=SHAPE)
    model: Any = SimpleNamespace(device="cpu", spec=spec, call=call)
    noise, step_noise = run_noise(seed, range(SAMPLES), SHAPE, own)
    return SimpleNamespace(sampler=own, spec=spec, sampling=Sampling(model, {}, noise, 1.0, 1, 0, step_noise))


def test_predictions_that_are_exact_stay_exact_where_steps_add_noise() -> None:
    """On samples of other noise than that of the fit, which has no error to take off."""
    own = freeze_sampler("ddim", CONFIG, STEPS, eta=1.0)
    assert own.stochastic
    policy = calibrate_policy(gaussian_trials(own, seed=0), CONFIG, PolicyOptions("misfit", calls=6))
    others = gaussian_trials(own, seed=1)
    found = run_policy(others.sampling, policy)
    assert found.calls.max() <= STEPS - 3
    expected = others.sampling.record(own)[0][-1][0]
    assert float((found.latents - expected).norm() / expected.norm()) < 1e-4


def test_a_step_that_knows_one_prediction_expects_what_that_one_leaves() -> None:
    """The second step's misfit is what the first skip is judged by: a made-up one would let it through, or stop it."""
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(1, SAMPLES, *SHAPE, generator=generator) for _ in range(5)]
    predictions = [torch.randn(SAMPLES, *SHAPE, generator=generator) for _ in range(4)]
    fills, misfits = fit_fills(states, predictions)
    first, second = predictions[:2]
    weight = float((first * second).sum() / (first**2).sum())
    left = float(((second - weight * first) ** 2).sum() / (second**2).sum())
    for gap in range(1, GAP + 1):
        assert fills[1, variant_of(gap, 0)] == pytest.approx([weight, 0.0, 0.0], rel=1e-4)
        assert misfits[1, variant_of(gap, 0)] == pytest.approx(left, rel=1e-4)


@pytest.mark.parametrize("steps", [12, 25, 50, 100, 250, 1000])
def test_long_runs_are_weighed_at_no_more_steps_than_short_ones(steps: int) -> None:
    """The rest of the run is played from each, so that every fourth of them would take time quadratic in steps."""
    grid = weighed_steps(steps)
    assert (grid[0], grid[-1]) == (2, steps - 2)
    assert len(grid) <= 14
    if steps <= 50:
        assert grid == sorted({*range(2, steps - 1, 4), steps - 2})
