"""The affine table against the diffusers scheduler it was probed from."""

from __future__ import annotations

import pytest
import torch

from soda_export.errors import ModelError
from soda_export.sampler import freeze_sampler, make_scheduler

CONFIG = {"num_train_timesteps": 1000, "beta_schedule": "linear", "clip_sample": False}
COSINE = {**CONFIG, "beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}


@pytest.mark.parametrize("steps", [10, 50, 250])
@pytest.mark.parametrize(("name", "eta"), [("ddim", 0.0), ("ddim", 1.0), ("ddpm", 0.0)])
@pytest.mark.parametrize("config", [CONFIG, COSINE], ids=["linear-epsilon", "cosine-v"])
def test_each_step_equals_the_schedulers_to_1e_5(name: str, eta: float, steps: int, config: dict[str, object]) -> None:
    table, scheduler = freeze_sampler(name, config, steps, eta), make_scheduler(name, config)
    scheduler.set_timesteps(steps)
    options = {"eta": eta} if name == "ddim" else {}
    shape = (2, 3, 8, 8)
    worst = 0.0
    for i, t in enumerate(scheduler.timesteps):
        generator = torch.Generator().manual_seed(i)
        x, output = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(1000 + i))
        expected = scheduler.step(
            output, t, x, generator=torch.Generator().manual_seed(1000 + i), **options
        ).prev_sample
        state = table.advance(i, x[None], output, noise if table.stochastic else None)[0]
        worst = max(worst, float((state - expected).abs().max() / expected.abs().max()))
        assert int(t) == table.timesteps[i]
    assert worst <= 1e-5


def test_only_stochastic_samplers_take_noise() -> None:
    assert not freeze_sampler("ddim", CONFIG, 10).stochastic
    assert freeze_sampler("ddim", CONFIG, 10, eta=0.5).stochastic
    assert freeze_sampler("ddpm", CONFIG, 10).stochastic


@pytest.mark.parametrize(
    ("sampler", "config", "steps", "eta", "message"),
    [
        ("ddim", {**CONFIG, "clip_sample": True}, 10, 0.0, "clip_sample=true"),
        ("ddim", {**CONFIG, "thresholding": True}, 10, 0.0, "thresholding=true"),
        ("ddpm", {**CONFIG, "variance_type": "learned_range"}, 10, 0.0, "learned variance"),
        ("euler", CONFIG, 10, 0.0, "not supported"),
        ("ddim", CONFIG, 10, 2.0, "--eta 2.0"),
        ("ddim", CONFIG, 10, -0.5, "--eta -0.5"),
        ("ddim", CONFIG, 10, float("nan"), "--eta nan"),
        ("ddim", {**CONFIG, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}, 10, 0.0, "not a finite"),
        ("ddim", {**CONFIG, "_class_name": "FlowMatchEulerDiscreteScheduler"}, 10, 0.0, "FlowMatchEuler"),
        ("ddim", {"beta_schedule": "linear"}, 10, 0.0, "clip_sample=true"),
        ("ddim", {**CONFIG, "beta_schedule": "magic"}, 10, 0.0, "magic"),
        ("ddim", {**CONFIG, "prediction_type": "magic"}, 10, 0.0, "cannot make 10 steps"),
        ("ddim", {**CONFIG, "timestep_spacing": "magic"}, 10, 0.0, "magic"),
        ("ddim", CONFIG, 0, 0.0, "--steps 0"),
        ("ddim", CONFIG, 1001, 0.0, "--steps 1001"),
        ("ddpm", CONFIG, 10, 0.5, "--eta"),
    ],
)
def test_what_cannot_be_frozen_is_refused(
    sampler: str, config: dict[str, object], steps: int, eta: float, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        freeze_sampler(sampler, config, steps, eta)
