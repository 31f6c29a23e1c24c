"""SADA's policy takes the decisions of the released code and ends where it ends."""

from __future__ import annotations

from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from soda_export.eager.adaptive import run_policy
from soda_export.errors import PlanError
from soda_export.policy.sada import PAPER, make_sada
from soda_export.sampler import freeze_sampler

from .mixture import MixtureSampling
from .released_sada import Run, Settings, run_released, run_released_flow

SAMPLES = 6
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
DPM = {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver++", **BETAS}
EULER = {"_class_name": "EulerDiscreteScheduler", **BETAS}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "dpm-solver++, epsilon": ("dpm-solver++", {**DPM, "prediction_type": "epsilon"}),
    "dpm-solver++, v": ("dpm-solver++", {**DPM, "prediction_type": "v_prediction"}),
    "euler, epsilon": ("euler", {**EULER, "prediction_type": "epsilon", "timestep_spacing": "leading"}),
    "euler, v": ("euler", {**EULER, "prediction_type": "v_prediction", "timestep_spacing": "leading"}),
}


def _released(name: str, config: dict[str, Any], sampling: MixtureSampling, sample: int) -> Run:
    maker = getattr(diffusers, config["_class_name"])
    scheduler = maker.from_config(config)
    scheduler.set_timesteps(50)
    noise = sampling.noise[[sample]].double()  # its own rounding is above the bar where a sample lies between points
    one = sampling.of([sample])

    def predict(step: int, x: torch.Tensor) -> torch.Tensor:
        return one.predict_at(step, x).double()

    if name == "flow-euler":
        return run_released_flow(scheduler, predict, noise, Settings(multistep=20))
    return run_released(scheduler, predict, noise, Settings())


@pytest.mark.parametrize("case", CASES)
def test_decisions_and_latents_are_those_of_the_released_code(case: str) -> None:
    sampler, config = CASES[case]
    own = freeze_sampler(sampler, config, 50)
    sampling = MixtureSampling.of_sampler(own, config, SAMPLES)
    found = run_policy(sampling, make_sada(own, config))  # type: ignore[arg-type]
    tested = 0
    for sample in range(SAMPLES):
        released = _released(sampler, config, sampling, sample)
        assert found.decisions[:, sample].tolist() == released.decisions
        assert _relative(found.latents[[sample]], released.latents) < 1e-5
        tested += len(set(released.decisions[11:25]))
    assert tested > SAMPLES  # some samples computed and skipped where the sign decides
    assert (found.decisions == 2).any()


def test_flows_take_the_released_decisions_but_where_a_sign_is_rounding() -> None:
    """In a row of skipped steps the released code takes the sign of a mean that is 0 but for rounding; given its
    decisions there, the rest is the same."""
    own = freeze_sampler("flow-euler", FLOW, 50)
    sampling = MixtureSampling.of_sampler(own, FLOW, SAMPLES)
    policy = make_sada(own, FLOW)
    runs = [_released("flow-euler", FLOW, sampling, sample) for sample in range(SAMPLES)]
    decisions = np.array([run.decisions for run in runs]).T
    replayed = run_policy(sampling, policy, decisions=decisions)  # type: ignore[arg-type]
    for sample, run in enumerate(runs):
        assert _relative(replayed.latents[[sample]], run.latents) < 1e-5
    own_way = run_policy(sampling, policy).decisions  # type: ignore[arg-type]
    for sample, run in enumerate(runs):
        differ = np.flatnonzero(own_way[:, sample] != decisions[:, sample])
        if differ.size:  # the first difference follows a skipped step, whose mean is rounding
            first = int(differ[0])
            assert decisions[first - 1, sample] == 1
            assert abs(run.means[first - 1]) < 1e-7


def test_the_papers_weights_and_time_scale_call_nearly_everything_stable() -> None:
    """With a step as long as its timesteps say, the estimate's error has one sign (arXiv 2507.17135, eq. 8)."""
    sampler, config = CASES["dpm-solver++, epsilon"]
    own = freeze_sampler(sampler, config, 50)
    sampling = MixtureSampling.of_sampler(own, config, SAMPLES)
    found = run_policy(sampling, make_sada(own, config, PAPER))  # type: ignore[arg-type]
    assert found.calls.max() <= 23
    assert found.calls.min() >= 21


@pytest.mark.parametrize("steps", [4, 8, 10, 20, 25, 100])
def test_other_numbers_of_steps_keep_the_published_shares_and_compute_the_ends(steps: int) -> None:
    sampler, config = CASES["dpm-solver++, epsilon"]
    own = freeze_sampler(sampler, config, steps)
    sampling = MixtureSampling.of_sampler(own, config, 2)
    found = run_policy(sampling, make_sada(own, config))  # type: ignore[arg-type]
    assert not found.decisions[: max(3, round(0.2 * steps)) + 1].any()
    assert not found.decisions[-2:].any()
    assert torch.isfinite(found.latents).all()


def test_what_has_no_clean_sample_to_go_by_is_refused() -> None:
    config = {**DPM, "prediction_type": "sample"}
    own = freeze_sampler("dpm-solver++", config, 10)
    with pytest.raises(PlanError, match="--policy sada: not defined for prediction_type 'sample'; use misfit"):
        make_sada(own, config)
    pndm = {"_class_name": "PNDMScheduler", **BETAS}
    with pytest.raises(PlanError, match="--policy sada: pndm mixes no clean sample with noise"):
        make_sada(freeze_sampler("pndm", pndm, 10), pndm)


def _relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())
