"""The executable specification, step by step against what each decision says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from soda_export.eager.model import EagerModel
from soda_export.eager.reference import run_reference
from soda_export.eager.sampling import Sampling, StepHook, run_noise
from soda_export.eager.sites import SiteCall
from soda_export.eager.tokens import gather_tokens, scatter_tokens, top_tokens
from soda_export.lower.lower import lower_plan
from soda_export.lower.program import ProgramTable
from soda_export.models.decisions import COMPUTE
from soda_export.models.identity import SamplerIdentity, identify
from soda_export.plan.forecast import forecast_weights
from soda_export.plan.plan import Plan
from soda_export.plan.schedule import Schedule
from soda_export.sampler import SamplerTable, freeze_sampler
from tests.eager.toys import digits, toy_conditions, toy_dit, toy_flux, toy_pixart, toy_sd3

STEPS = 8
CONFIGS = {
    "ddim": {"_class_name": "DDIMScheduler", "clip_sample": False},
    "dpm-solver++": {"_class_name": "DPMSolverMultistepScheduler"},
    "flow-euler": {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
}
TOYS = pytest.mark.parametrize("make", [toy_dit, toy_pixart, toy_flux, toy_sd3])


class Bed:
    """A model, a sampler and two samples."""

    def __init__(self, model: EagerModel, eta: float = 0.0) -> None:
        name = {"dit": "ddim", "pixart": "dpm-solver++"}.get(model.spec.family, "flow-euler")
        self.model, self.guidance = model, 2.0 if model.family.guidance == "rows" else 1.0
        learned = model.spec.prediction_shape[0] == 2 * model.spec.latent_shape[0]
        self.sampler: SamplerTable = freeze_sampler(name, CONFIGS[name], STEPS, eta, learned_variance=learned)
        self.identity = SamplerIdentity(name, STEPS, eta)
        self.rows = model.rows_for(self.guidance)
        self.inputs = toy_conditions(model).rows(range(2), self.rows)
        self.noise, self.step_noise = run_noise(3, range(2), model.spec.latent_shape, self.sampler)

    def table(self, work: NDArray[np.int64]) -> ProgramTable:
        spec = self.model.spec
        return lower_plan(Plan(identify(spec), self.identity, self.guidance, Schedule.of(spec, work)), spec)

    def play(self, work: NDArray[np.int64]) -> Tensor:
        return run_reference(
            self.model, self.sampler, self.table(work), self.inputs, self.noise, self.step_noise, self.guidance
        )

    def sample(self, hooks: Callable[[int], StepHook]) -> Tensor:
        sampling = Sampling(
            self.model, self.inputs, self.noise, self.guidance, self.rows, step_noise=self.step_noise
        )  # fmt: skip
        return sampling.run(self.sampler, hooks)[0]

    def everything(self) -> NDArray[np.int64]:
        return Schedule.full(self.model.spec, STEPS).work.copy()


@TOYS
def test_a_table_that_computes_everything_is_plain_sampling(make: Callable[[], EagerModel]) -> None:
    bed = Bed(make())
    assert torch.equal(bed.play(bed.everything()), bed.sample(lambda step: StepHook()))


@TOYS
def test_reused_outputs_are_those_of_the_step_that_computed_them(make: Callable[[], EagerModel]) -> None:
    bed = Bed(make())
    spec, work = bed.model.spec, bed.everything()
    leaves = [k for k in spec.leaves if spec.sites[k].kind != "ff"]
    work[np.ix_([2, 3, 6], leaves)] = 0
    kept: dict[int, tuple[Tensor, ...]] = {}

    def hooks(step: int) -> StepHook:
        def on_site(k: int, call: SiteCall) -> tuple[Tensor, ...]:
            if work[step, k] == COMPUTE:
                kept[k] = call.compute()
            return kept[k]

        return StepHook(on_site)

    assert torch.equal(bed.play(work), bed.sample(hooks))


@TOYS
@pytest.mark.parametrize("order", [0, 1, 2])
def test_a_skipped_stack_is_a_weighted_sum_of_its_last_outputs(make: Callable[[], EagerModel], order: int) -> None:
    bed = Bed(make())
    stack, work = bed.model.spec.stack, bed.everything()
    assert stack is not None
    work[[4, 6], stack] = -order
    kept: list[Tensor] = []
    computed: list[int] = []

    def hooks(step: int) -> StepHook:
        def on_site(k: int, call: SiteCall) -> tuple[Tensor, ...]:
            if k != stack or step not in (4, 6):
                values = call.compute()
                if k == stack:
                    kept.insert(0, values[0])
                    computed.insert(0, step)
                return values
            weights = forecast_weights(step, computed, order)
            return (sum((w * value for w, value in zip(weights, kept, strict=False)), torch.zeros(())),)

        return StepHook(on_site)  # every block runs here, in vain

    torch.testing.assert_close(bed.play(work), bed.sample(hooks), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [toy_dit, toy_pixart])
def test_renewed_tokens_are_scattered_into_the_latest_output(make: Callable[[], EagerModel]) -> None:
    bed = Bed(make())
    spec, work = bed.model.spec, bed.everything()
    renewed = [k for k, site in enumerate(spec.sites) if site.tokens]
    work[np.ix_([2, 3, 5], renewed)] = 6
    kept: dict[int, Tensor] = {}

    def hooks(step: int) -> StepHook:
        def on_site(k: int, call: SiteCall) -> tuple[Tensor, ...]:
            values = call.compute()
            if work[step, k] == COMPUTE:
                kept[k] = values[0]
                return values
            scores = call.inputs.mean(dim=-1).reshape(2, -1, spec.sites[k].tokens).mean(dim=0)
            indices = top_tokens(scores, 6).repeat(2, 1)
            kept[k] = scatter_tokens(kept[k], indices, gather_tokens(values[0], indices))
            return (kept[k],)

        return StepHook(on_site)

    torch.testing.assert_close(bed.play(work), bed.sample(hooks), rtol=1e-4, atol=1e-5)


def test_a_stochastic_sampler_takes_the_noise_of_its_steps() -> None:
    bed = Bed(digits(), eta=1.0)
    assert bed.step_noise is not None
    first = bed.play(bed.everything())
    assert torch.equal(first, bed.play(bed.everything()))
    bed.step_noise = 0.5 * bed.step_noise
    assert not torch.equal(first, bed.play(bed.everything()))


def test_the_tables_own_coefficients_are_played() -> None:
    bed = Bed(toy_dit())
    spec = bed.model.spec
    plan = Plan(
        identify(spec), bed.identity, bed.guidance, Schedule.full(spec, STEPS),
        coefficients=1.01 * bed.sampler.coefficients,
    )  # fmt: skip
    found = run_reference(bed.model, bed.sampler, lower_plan(plan, spec), bed.inputs, bed.noise)
    scaled = bed.sampler.with_coefficients(1.01 * bed.sampler.coefficients)
    expected = run_reference(bed.model, scaled, bed.table(bed.everything()), bed.inputs, bed.noise)
    assert torch.equal(found, expected)
    assert not torch.equal(found, bed.play(bed.everything()))
