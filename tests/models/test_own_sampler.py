"""A model's own scheduler: which sampler it is, and the noise levels that its pipeline gives it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift, retrieve_timesteps

from soda_export.errors import ModelError
from soda_export.models.load import ModelRequest, load_model
from soda_export.models.published import published_models, read_published
from soda_export.models.schedule import pipeline_schedule
from soda_export.options import defaults_for
from soda_export.sampler import freeze_sampler, own_sampler
from tests.tiny_models import save_tiny_flux

FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
DYNAMIC = {**FLOW, "use_dynamic_shifting": True}


@pytest.mark.parametrize(
    ("config", "sampler"),
    [
        ({"_class_name": "DDIMScheduler"}, "ddim"),
        ({"_class_name": "DDPMScheduler"}, "ddpm"),
        ({"_class_name": "DPMSolverMultistepScheduler"}, "dpm-solver++"),
        ({"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"}, "dpm-solver++"),
        ({"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True}, "dpm-solver++-karras"),
        ({"_class_name": "EulerDiscreteScheduler"}, "euler"),
        ({"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": True}, "euler-karras"),
        ({"_class_name": "UniPCMultistepScheduler"}, "unipc"),
        ({"_class_name": "UniPCMultistepScheduler", "use_karras_sigmas": True}, "unipc-karras"),
        ({"_class_name": "EulerAncestralDiscreteScheduler"}, "euler-ancestral"),
        ({"_class_name": "PNDMScheduler", "skip_prk_steps": True}, "pndm"),
        ({"_class_name": "LCMScheduler"}, "lcm"),
        ({"_class_name": "TCDScheduler"}, "tcd"),
        (FLOW, "flow-euler"),
        ({**FLOW, "use_karras_sigmas": True}, "flow-euler"),
    ],
)
def test_a_scheduler_with_a_counterpart_is_that_sampler(config: dict[str, Any], sampler: str) -> None:
    assert own_sampler(config) == sampler
    assert freeze_sampler(sampler, {"clip_sample": False, **config}, 5).steps == 5


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"_class_name": "HeunDiscreteScheduler"}, "HeunDiscreteScheduler has no counterpart"),
        ({"_class_name": "KDPM2AncestralDiscreteScheduler"}, "KDPM2AncestralDiscreteScheduler has no counterpart"),
        ({"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver"}, "with algorithm_type=dpm"),
        ({"_class_name": ["x"]}, "has no counterpart"),
    ],
)
def test_a_scheduler_without_a_counterpart_is_refused(config: dict[str, Any], what: str) -> None:
    with pytest.raises(ModelError, match=f"{what}.*; choose another with --sampler") as refused:
        own_sampler(config)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("steps", [1, 4, 28])
@pytest.mark.parametrize("config", [DYNAMIC, {**DYNAMIC, "time_shift_type": "linear"}, {**FLOW, "shift": 1.0}])
@pytest.mark.parametrize("tokens", [256, 1024, 4096])
def test_noise_levels_are_those_that_flux_pipeline_sets(config: dict[str, Any], steps: int, tokens: int) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(config)
    retrieve_timesteps(
        scheduler, steps, sigmas=np.linspace(1.0, 1 / steps, steps),
        mu=calculate_shift(tokens, 256, 4096, 0.5, 1.15),
    )  # fmt: skip
    table = freeze_sampler("flow-euler", pipeline_schedule(config, tokens, uniform_sigmas=True), steps)
    np.testing.assert_allclose(table.timesteps, scheduler.timesteps.tolist(), rtol=1e-6)
    noise, latents = torch.randn(1, 64, 16), torch.randn(1, 64, 16)
    state, x = table.begin(noise), noise
    for i, t in enumerate(scheduler.timesteps):
        state = table.advance(i, state, latents, None)
        x = scheduler.step(latents, t, x, return_dict=False)[0]
    torch.testing.assert_close(state[0], x, rtol=1e-4, atol=1e-5)


def test_sd3_leaves_its_noise_levels_to_the_scheduler() -> None:
    for config, options in ((FLOW, {}), (DYNAMIC, {"mu": calculate_shift(1024)})):
        scheduler = FlowMatchEulerDiscreteScheduler.from_config(config)
        scheduler.set_timesteps(28, **options)
        table = freeze_sampler("flow-euler", pipeline_schedule(config, 1024, uniform_sigmas=False), 28)
        np.testing.assert_allclose(table.timesteps, scheduler.timesteps.tolist(), rtol=1e-6)


def test_a_shift_by_size_is_refused_where_the_size_is_unknown() -> None:
    with pytest.raises(ModelError, match="use_dynamic_shifting=true needs a shift that depends on the image's size"):
        freeze_sampler("flow-euler", pipeline_schedule(DYNAMIC, 0, uniform_sigmas=False), 10)


@pytest.mark.parametrize("name", published_models())
def test_every_published_model_has_a_sampler_of_its_own(name: str) -> None:
    expected = {
        "dit": "ddim", "pixart": "dpm-solver++", "flux": "flow-euler", "sd3": "flow-euler", "sd-1.5": "pndm",
        "sd-2.1": "ddim", "sdxl-turbo": "euler-ancestral", "sdxl": "euler", "wan": "unipc", "opensora": "rflow",
        "musicldm": "ddim",
    }  # fmt: skip
    assert own_sampler(read_published(name)["scheduler"]) == next(s for n, s in expected.items() if name.startswith(n))


def test_defaults_are_the_models_scheduler_and_the_familys_steps_and_guidance(tmp_path: Path) -> None:
    loaded = load_model(ModelRequest(str(save_tiny_flux(tmp_path / "model")), image_size=16))
    sampler, guidance = defaults_for(loaded)
    assert (sampler.name, sampler.steps, guidance) == ("flow-euler", 28, 1.0)
    assert freeze_sampler(sampler.name, loaded.scheduler_config, 28).timesteps[0] == 1000
