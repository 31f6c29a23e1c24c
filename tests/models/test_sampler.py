"""The affine table against the diffusers scheduler it was probed from."""

from __future__ import annotations

import inspect
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from diffusers import PNDMScheduler
from soda_runtime.signature import coefficient_count
from torch import Tensor, nn

from soda_export.errors import InternalError, ModelError
from soda_export.options import SamplerRequest
from soda_export.sampler import (
    SAMPLERS,
    SamplerTable,
    advance_state,
    freeze_sampler,
    guide,
    make_scheduler,
)

CONFIG = {"num_train_timesteps": 1000, "beta_schedule": "linear", "clip_sample": False}
COSINE = {**CONFIG, "beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
RFLOW = {"_class_name": "RFlowScheduler", "num_train_timesteps": 1000, "shift": 4.84}
DPM = {"_class_name": "DPMSolverMultistepScheduler", "num_train_timesteps": 1000, "beta_schedule": "linear"}
LEARNED = {**CONFIG, "variance_type": "learned_range"}
SHAPE = (2, 3, 8, 8)
BAR = 1e-4
STOCHASTIC = ("ddpm", "euler-ancestral", "lcm")
DISTILLED = ("lcm", "tcd")  # in at most 50 steps


def model(x: Tensor, t: float) -> Tensor:
    """A fixed nonlinear stand-in: each element depends on itself, its neighbours and the timestep."""
    mixed = 0.7 * x + 0.2 * x.roll(1, -1) - 0.3 * x.roll(1, 1)
    return torch.tanh(mixed + 0.5 * float(np.sin(t / 90)))


def step_noise(step: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(1000 + step))


def diffusers_run(scheduler: Any, steps: int, both_halves: bool = False, **options: float) -> Tensor:
    """The scheduler's own loop over the stand-in; both_halves: its output carries variance channels, too."""
    scheduler.set_timesteps(steps - isinstance(scheduler, PNDMScheduler))  # which calls the model once more
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    x = step_noise(-1) * float(getattr(scheduler, "init_noise_sigma", 1.0))
    seeded = "generator" in inspect.signature(scheduler.step).parameters
    for i, t in enumerate(scheduler.timesteps):
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        output = with_variance(scaled, float(t)) if both_halves else model(scaled, float(t))
        generator = {"generator": torch.Generator().manual_seed(1000 + i)} if seeded else {}
        x = scheduler.step(output, t, x, **generator, **options).prev_sample
    return x


def table_run(table: SamplerTable, both_halves: bool = False) -> Tensor:
    state = table.begin(step_noise(-1))
    for i, t in enumerate(table.timesteps):
        scaled = table.model_input(i, state)
        output = with_variance(scaled, t) if both_halves else model(scaled, t)
        state = table.advance(i, state, output, step_noise(i) if table.stochastic else None)
    return state[0]


def with_variance(x: Tensor, t: float) -> Tensor:
    """[B, C, ..] -> [B, 2C, ..]: the prediction, then variance channels within -1 .. 1."""
    return torch.cat([model(x, t), model(2 * x.flip(-1), t + 50)], dim=1)


def compare(name: str, config: dict[str, Any], steps: int, eta: float = 0.0, bar: float = BAR) -> SamplerTable:
    table = freeze_sampler(name, config, steps, eta)
    expected = diffusers_run(make_scheduler(name, config), steps, **({"eta": eta} if name in ("ddim", "tcd") else {}))
    found = table_run(table)
    error = float((found - expected).abs().max() / expected.abs().max())
    print(f"{name} {steps} steps eta {eta:g}: relative error {error:.1e}")
    assert expected.isfinite().all()
    assert error <= bar
    assert table.coefficients.shape == (steps, coefficient_count(table.state_size))
    return table


def config_for(name: str, config: dict[str, Any]) -> dict[str, Any]:
    if name == "rflow":
        return RFLOW
    return FLOW if name.startswith("flow-") else config


@pytest.mark.parametrize("steps", [10, 20, 50, 250])
@pytest.mark.parametrize("config", [CONFIG, COSINE], ids=["linear-epsilon", "cosine-v"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_whole_run_equals_the_schedulers_to_1e_4(name: str, config: dict[str, Any], steps: int) -> None:
    # this schedule starts at sigma = 20291, and a first step to 6 leaves float32, in which diffusers subtracts the two,
    # 2e-4 of precision; the next test shows which side loses it
    if name in DISTILLED and steps > 50:
        pytest.skip("distilled models make a few steps")
    lossy = name.startswith("euler") and name != "euler-karras" and config is COSINE and steps <= 20
    table = compare(name, config_for(name, config), steps, bar=5e-4 if lossy else BAR)
    assert table.stochastic == (name in STOCHASTIC)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_tcd_adds_as_much_noise_as_its_gamma_says(eta: float) -> None:
    assert compare("tcd", CONFIG, 4, eta).stochastic


@pytest.mark.parametrize("steps", [10, 20])
def test_euler_from_a_huge_sigma_is_nearer_to_float64_than_diffusers(steps: int) -> None:
    scheduler = make_scheduler("euler", COSINE)
    diffusers = diffusers_run(scheduler, steps)
    sigmas = scheduler.sigmas.double()
    x = step_noise(-1).double() * float(sigmas[0])
    for i, t in enumerate(scheduler.timesteps.tolist()):
        level = (sigmas[i] ** 2 + 1) ** 0.5
        clean = x / level**2 - model(x / level, t) * sigmas[i] / level
        x = x + (x - clean) / sigmas[i] * (sigmas[i + 1] - sigmas[i])
    ours = table_run(freeze_sampler("euler", COSINE, steps))
    errors = [float((found - x).abs().max() / x.abs().max()) for found in (ours, diffusers)]
    print(f"euler from sigma {sigmas[0]:.0f}, {steps} steps: ours {errors[0]:.1e}, diffusers {errors[1]:.1e}")
    assert errors[0] <= BAR
    assert errors[0] < errors[1]


@pytest.mark.parametrize("steps", [10, 50, 250])
@pytest.mark.parametrize(("name", "eta"), [("ddim", 0.0), ("ddim", 1.0), ("ddpm", 0.0)])
@pytest.mark.parametrize("config", [CONFIG, COSINE], ids=["linear-epsilon", "cosine-v"])
def test_each_step_equals_the_schedulers_to_1e_5(name: str, eta: float, steps: int, config: dict[str, object]) -> None:
    table, scheduler = freeze_sampler(name, config, steps, eta), make_scheduler(name, config)
    scheduler.set_timesteps(steps)
    options = {"eta": eta} if name == "ddim" else {}
    worst = 0.0
    for i, t in enumerate(scheduler.timesteps):
        generator = torch.Generator().manual_seed(i)
        x, output = torch.randn(SHAPE, generator=generator), torch.randn(SHAPE, generator=generator)
        expected = scheduler.step(
            output, t, x, generator=torch.Generator().manual_seed(1000 + i), **options
        ).prev_sample
        state = table.advance(i, x[None], output, step_noise(i) if table.stochastic else None)[0]
        worst = max(worst, float((state - expected).abs().max() / expected.abs().max()))
        assert int(t) == table.timesteps[i]
    assert worst <= 1e-5


@pytest.mark.parametrize("config", [CONFIG, COSINE], ids=["linear-epsilon", "cosine-v"])
@pytest.mark.parametrize(("steps", "final"), [(10, True), (10, False), (50, True)])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_every_order_of_dpm_solver_equals_diffusers(
    config: dict[str, Any], order: int, steps: int, final: bool
) -> None:
    table = compare("dpm-solver++", {**config, "solver_order": order, "lower_order_final": final}, steps)
    assert table.state_size == order


@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_every_order_of_unipc_equals_diffusers(order: int, steps: int) -> None:
    table = compare("unipc", {**CONFIG, "solver_order": order}, steps)
    assert table.state_size == order + 2


@pytest.mark.parametrize("final", ["zero", "sigma_min"])
@pytest.mark.parametrize("name", ["dpm-solver++", "euler", "unipc", "dpm-solver++-karras", "euler-karras"])
def test_both_final_sigmas_equal_diffusers(name: str, final: str) -> None:
    compare(name, {**CONFIG, "final_sigmas_type": final}, 20)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_sde_form_of_dpm_solver_is_frozen_with_its_noise(order: int) -> None:
    table = compare("dpm-solver++", {**DPM, "algorithm_type": "sde-dpmsolver++", "solver_order": order}, 20)
    assert table.stochastic
    assert table.state_size == order


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("ddim", {**CONFIG, "timestep_spacing": "trailing"}),
        ("euler", {**CONFIG, "timestep_spacing": "leading", "steps_offset": 1}),
        ("dpm-solver++", {**CONFIG, "prediction_type": "sample", "solver_type": "heun"}),
        ("dpm-solver++", {**DPM, "use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}),
        ("unipc", {**DPM, "use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}),
        ("dpm-solver++-karras", {**DPM, "use_lu_lambdas": True, "use_exponential_sigmas": True}),
        ("dpm-solver++", {**DPM, "algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}),
        ("dpm-solver++", {**CONFIG, "variance_type": "learned_range"}),
        ("flow-euler", {**FLOW, "stochastic_sampling": True}),
        ("flow-euler", {**FLOW, "shift_terminal": 0.1, "invert_sigmas": True}),
        ("flow-euler", {**FLOW, "use_karras_sigmas": True}),
    ],
)
def test_other_settings_of_the_models_config_are_followed(name: str, config: dict[str, Any]) -> None:
    compare(name, config, 20)


def test_plain_names_follow_the_models_spacing_and_karras_names_force_it() -> None:
    karras = {**CONFIG, "use_karras_sigmas": True}
    for name in ("dpm-solver++", "euler", "unipc"):
        forced = freeze_sampler(f"{name}-karras", CONFIG, 10)
        assert freeze_sampler(name, karras, 10).timesteps == forced.timesteps
        assert freeze_sampler(name, CONFIG, 10).timesteps != forced.timesteps


@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
def test_the_state_holds_no_more_than_later_steps_read(prediction: str) -> None:
    sizes = {"ddim": 1, "ddpm": 1, "euler": 1, "dpm-solver++": 2, "unipc": 4}
    for name, size in sizes.items():
        assert freeze_sampler(name, {**CONFIG, "prediction_type": prediction}, 20).state_size == size
    assert freeze_sampler("flow-euler", FLOW, 20).state_size == 1


def test_whole_timesteps_are_ints_and_others_exact() -> None:
    assert all(type(t) is int for name in ("ddim", "unipc") for t in freeze_sampler(name, CONFIG, 10).timesteps)
    timesteps = freeze_sampler("euler", CONFIG, 7).timesteps
    assert timesteps[0] == 999
    assert timesteps[1] == float(np.float32(832.5))
    assert {type(t) for t in timesteps} == {int, float}


@pytest.mark.parametrize("steps", [10, 50, 250])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_learned_variance_equals_ddpm_scheduler(steps: int, spacing: str, prediction: str) -> None:
    config = {**LEARNED, "timestep_spacing": spacing, "prediction_type": prediction}
    table = freeze_sampler("ddpm", config, steps, learned_variance=True)
    expected = diffusers_run(make_scheduler("ddpm", config, learned_variance=True), steps, both_halves=True)
    error = float((table_run(table, both_halves=True) - expected).abs().max() / expected.abs().max())
    print(f"ddpm learned {steps} steps {spacing} {prediction}: relative error {error:.1e}")
    assert error <= BAR
    assert table.learned_variance
    assert table.stochastic
    assert table.coefficients.shape == (steps, coefficient_count(1, learned_variance=True)) == (steps, 6)
    assert set(table.coefficients[:-1, 3]) == {1.0}
    assert table.coefficients[-1, 3] == (1.0 if table.timesteps[-1] > 0 else 0.0)  # diffusers adds none at t = 0


def test_variance_channels_that_the_sampler_does_not_use_are_ignored() -> None:
    for name, config in (("ddim", LEARNED), ("dpm-solver++", LEARNED), ("ddpm", CONFIG)):
        table = freeze_sampler(name, config, 10, learned_variance=True)
        assert not table.learned_variance
        assert torch.equal(table_run(table, both_halves=True), table_run(table))


def test_guiding_three_of_four_channels_leaves_the_others_conditional() -> None:
    output = torch.randn(4, 8, 2, 2, generator=torch.Generator().manual_seed(0))
    conditional, unconditional = output[:2], output[2:]
    guided = guide(output, 2, 4.0, 3, 4)
    assert torch.equal(guided[:, :3], (unconditional + 4.0 * (conditional - unconditional))[:, :3])
    assert torch.equal(guided[:, 3:], conditional[:, 3:])
    every = guide(output[:, :4], 2, torch.tensor([4.0]), 4, 4)
    assert torch.equal(every, (unconditional + 4.0 * (conditional - unconditional))[:, :4])
    assert guide(output, 1, 4.0, 3, 4) is output
    with pytest.raises(InternalError, match="guide"):
        guide(output, 2, 4.0, 5, 4)


class GuidedStep(nn.Module):
    def __init__(self, learned: bool) -> None:
        super().__init__()
        self.learned = learned

    def forward(self, output: Tensor, guidance: Tensor, row: Tensor, state: Tensor, noise: Tensor) -> Tensor:
        return advance_state(row, state, guide(output, 2, guidance, 3, 4), noise, self.learned)


@pytest.mark.parametrize(("size", "learned"), [(1, True), (1, False), (4, False)])
def test_guidance_and_step_trace_with_a_symbolic_batch(size: int, learned: bool) -> None:
    def inputs(batch: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(batch)
        shapes = ((2 * batch, 8, 4, 4), (1,), (coefficient_count(size, learned),))
        shapes += ((size, batch, 4, 4, 4), (batch, 4, 4, 4))
        return tuple(torch.randn(shape, generator=generator) for shape in shapes)

    batch = torch.export.Dim("batch", min=1, max=64)
    axes = ({0: 2 * batch}, {}, {}, {1: batch}, {0: batch})
    program = torch.export.export(GuidedStep(learned), inputs(3), dynamic_shapes=axes)
    assert torch.allclose(program.module()(*inputs(5)), GuidedStep(learned)(*inputs(5)))


def test_the_command_line_offers_every_sampler() -> None:
    literal = get_args(get_type_hints(SamplerRequest)["sampler"])[0]
    assert get_args(literal) == SAMPLERS


def test_only_stochastic_samplers_take_noise() -> None:
    for name in ("ddim", "tcd"):
        assert not freeze_sampler(name, CONFIG, 10).stochastic
        assert freeze_sampler(name, CONFIG, 10, eta=0.5).stochastic
    assert freeze_sampler("ddpm", CONFIG, 10).stochastic


@pytest.mark.parametrize(
    ("sampler", "config", "steps", "eta", "message"),
    [
        ("ddim", {**CONFIG, "clip_sample": True}, 10, 0.0, "clip_sample=true"),
        ("ddim", {**CONFIG, "thresholding": True}, 10, 0.0, "thresholding=true"),
        ("dpm-solver++", {**CONFIG, "thresholding": True}, 10, 0.0, "thresholding=true"),
        ("ddpm", {**CONFIG, "variance_type": "learned_range"}, 10, 0.0, "learned variance"),
        ("ddpm", {**CONFIG, "variance_type": "learned"}, 10, 0.0, "variance_type=learned:"),
        ("heun", CONFIG, 10, 0.0, "not supported"),
        ("ddim", CONFIG, 10, 2.0, "--eta 2.0"),
        ("ddim", CONFIG, 10, -0.5, "--eta -0.5"),
        ("ddim", CONFIG, 10, float("nan"), "--eta nan"),
        ("ddim", {**CONFIG, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}, 10, 0.0, "not a finite"),
        ("dpm-solver++", CONFIG, 1000, 0.0, "DPMSolverMultistepScheduler is not a finite"),
        ("unipc", {**CONFIG, "solver_type": "bh1"}, 10, 0.0, "UniPCMultistepScheduler is not a finite"),
        ("ddim", {**CONFIG, "_class_name": "FlowMatchEulerDiscreteScheduler"}, 10, 0.0, "FlowMatchEuler"),
        ("unipc", FLOW, 10, 0.0, "choose --sampler flow-euler"),
        ("flow-euler", CONFIG, 10, 0.0, "no flow-matching schedule"),
        ("flow-euler", DPM, 10, 0.0, "'DPMSolverMultistepScheduler' is no flow-matching schedule"),
        ("euler", {**DPM, "use_flow_sigmas": True}, 10, 0.0, "predicts a flow"),
        ("unipc-karras", {**DPM, "prediction_type": "flow_prediction"}, 10, 0.0, "predicts a flow"),
        ("flow-euler", {**FLOW, "use_dynamic_shifting": True}, 10, 0.0, "use_dynamic_shifting=true"),
        ("flow-euler", FLOW, 1001, 0.0, "--steps 1001"),
        ("ddim", {"beta_schedule": "linear"}, 10, 0.0, "clip_sample=true"),
        ("ddim", {**CONFIG, "beta_schedule": "magic"}, 10, 0.0, "magic"),
        ("ddim", {**CONFIG, "prediction_type": "magic"}, 10, 0.0, "cannot make 10 steps"),
        ("euler", {**CONFIG, "prediction_type": "magic"}, 10, 0.0, "cannot make 10 steps"),
        ("ddim", {**CONFIG, "timestep_spacing": "magic"}, 10, 0.0, "magic"),
        ("unipc", {**CONFIG, "solver_type": "magic"}, 10, 0.0, "magic"),
        ("ddim", CONFIG, 0, 0.0, "--steps 0"),
        ("ddim", CONFIG, 1001, 0.0, "--steps 1001"),
        ("ddpm", CONFIG, 10, 0.5, "--eta"),
        ("euler", CONFIG, 10, 0.5, "only ddim and tcd take it"),
    ],
)
def test_what_cannot_be_frozen_is_refused(
    sampler: str, config: dict[str, object], steps: int, eta: float, message: str
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        freeze_sampler(sampler, config, steps, eta)
    assert "\n" not in str(caught.value)
