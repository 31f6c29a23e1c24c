"""Coefficients fitted to a schedule: exact where they can be, better on samples they have not seen, and played so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from soda_runtime import Noise, Session
from torch import Tensor

from soda_export.eager.conditions import own_conditions
from soda_export.eager.model import EagerModel
from soda_export.eager.reference import run_reference
from soda_export.errors import PlanError
from soda_export.eval.sample import ModelSamples, compute_everything
from soda_export.lower.lower import lower_plan
from soda_export.models.identity import SamplerIdentity
from soda_export.models.load import load_model
from soda_export.models.spec import ModelSpec
from soda_export.options import ProfileOptions, SamplerOptions
from soda_export.plan.plan import plan_text, read_plan
from soda_export.plan.schedule import Schedule
from soda_export.plan.solve import PlanOptions
from soda_export.sampler import MEMORY, FittingSampler, SamplerTable, freeze_sampler
from soda_export.search.closed_loop import _Interval
from soda_export.search.measuring import fit_plan
from soda_export.search.planning import make_plan_for
from soda_export.search.trial import Trials
from soda_export.workbench.pipeline import Workbench
from soda_export.workbench.stages import StageStore
from tests.conftest import OpenBench
from tests.eager import toys
from tests.tiny import forecasting_schedule, make_plan

STEPS = 10
CONFIG = {
    "num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "clip_sample": False,
}  # fmt: skip


class Digits(NamedTuple):
    """The built-in model under a sampler."""

    model: EagerModel
    sampler: SamplerTable
    eta: float = 0.0


def make_trials(bench: Digits, samples: range, fit: bool = True) -> Trials:
    identity = SamplerIdentity("ddim", STEPS, bench.eta)
    conditions = own_conditions(bench.model.spec)
    return Trials(bench.model, bench.sampler, identity, 1.5, conditions, samples, fit=fit)


def digits_under(eta: float) -> Digits:
    return Digits(toys.digits(), freeze_sampler("ddim", CONFIG, STEPS, eta), eta)


@pytest.fixture(scope="module")
def digits() -> Digits:
    return digits_under(0.0)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    store = StageStore(tmp_path_factory.mktemp("fit"))
    return Workbench(load_model("digits"), SamplerOptions("ddim", STEPS, 0.0, 1.5), store, lambda *_: None)


def every_other(spec: ModelSpec) -> Schedule:
    return Schedule.at_anchors(spec, STEPS, (0, 1, 3, 5, 7, 9))


def rmse(found: Tensor, trials: Trials) -> float:
    return float(((found - trials.states[-1][0]) ** 2).mean().sqrt())


def test_a_run_that_computes_everything_keeps_the_samplers_own(digits: Digits) -> None:
    everything = Schedule.at_anchors(digits.model.spec, STEPS, tuple(range(STEPS)))
    fitted = make_trials(digits, range(4)).fit_sampler(everything)
    n = digits.sampler.state_size
    assert fitted.state_size == n + MEMORY
    matrices = fitted.coefficients[:, 1 : 1 + fitted.state_size**2].reshape(STEPS, fitted.state_size, -1)
    own = digits.sampler.coefficients
    assert np.array_equal(matrices[:, :n, :n].reshape(STEPS, -1), own[:, 1 : 1 + n * n])
    assert (matrices[:, :n, n:] == 0).all()


@pytest.mark.parametrize(("eta", "gain"), [(0.0, 0.85), (1.0, 0.95)])
def test_it_leads_samples_that_it_has_not_seen_back(eta: float, gain: float) -> None:
    bench = digits_under(eta)
    schedule = every_other(bench.model.spec)
    seen, unseen = make_trials(bench, range(16)), make_trials(bench, range(100, 132))
    plain = rmse(unseen.play(schedule, bench.sampler), unseen)
    fitted = rmse(unseen.play(schedule, seen.fit_sampler(schedule)), unseen)
    assert fitted < gain * plain


def test_the_fit_is_what_a_fitted_table_plays(digits: Digits) -> None:
    trials, schedule = make_trials(digits, range(4)), every_other(digits.model.spec)
    fitting = trials.fitting(schedule.renews(digits.model.spec, 2))
    assert torch.equal(trials.play(schedule, fitting), trials.play(schedule, fitting.fitted))
    assert trials.rmse(schedule) == pytest.approx(rmse(trials.play(schedule, fitting.fitted), trials))


def test_what_is_linear_is_found_exactly() -> None:
    """A path that needs the prediction before the latest one: it is remembered, and its weight is found."""
    own = freeze_sampler("ddim", CONFIG, 4)
    generator = torch.Generator().manual_seed(0)
    first, second, noise = (torch.randn(3, 2, 4, 4, generator=generator) for _ in range(3))
    path = [own.begin(noise)]
    for step, prediction in enumerate((first, second, 1.5 * second - 0.5 * first, 2.0 * second - first)):
        path.append(own.advance(step, path[-1], prediction, None))
    fitting = FittingSampler(own, path, (True, True, False, False))
    state = fitting.begin(noise)
    for step, prediction in enumerate((first, second, second, second)):
        state = fitting.advance(step, state, prediction, None)
    assert torch.allclose(state[0], path[-1][0], atol=1e-3)
    assert torch.equal(state[own.state_size], first)


def test_interval_costs_are_measured_with_the_fit(digits: Digits) -> None:
    """From step 0 there is no history, so one interval left out is a schedule of its own."""
    trials, spec = make_trials(digits, range(4)), digits.model.spec
    schedule = Schedule.at_anchors(spec, STEPS, (0, *range(3, STEPS)))
    found = _Interval(trials, 0, 3).play()[0]
    assert found == pytest.approx(float(trials.squared_errors(schedule).mean()), rel=1e-3)
    assert found < 0.9 * _Interval(make_trials(digits, range(4), fit=False), 0, 3).play()[0]


def test_a_step_renews_its_prediction_where_it_computes_enough(digits: Digits) -> None:
    spec = digits.model.spec
    work = Schedule.full(spec, 4).work.copy()
    work[np.ix_([1, 2], spec.leaves)] = 0
    work[2, [k for k in spec.leaves if spec.sites[k].kind == "ff"]] = 32
    work[3, spec.stack] = 0
    assert Schedule.of(spec, work).renews(spec, 2) == [True, False, True, False]


@pytest.mark.parametrize("shape", [(6,), (7, 5), (3, 4, 4), (2, 3, 4, 4)])
def test_latents_of_any_number_of_axes_are_led_and_fitted(shape: tuple[int, ...]) -> None:
    own = freeze_sampler("dpm-solver++", CONFIG, 4)
    generator = torch.Generator().manual_seed(0)
    noise, *predictions = (torch.randn(2, *shape, generator=generator) for _ in range(5))
    path = [own.begin(noise)]
    for step, prediction in enumerate(predictions):
        path.append(own.advance(step, path[-1], prediction, None))
    fitting = FittingSampler(own, path, (True,) * 4)
    state = fitting.begin(noise)
    for step, prediction in enumerate(predictions):
        state = fitting.advance(step, state, 0.9 * prediction, None)
    torch.testing.assert_close(state[0], path[-1][0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("name", "eta"), [("ddim", 0.0), ("ddim", 1.0), ("dpm-solver++", 0.0), ("unipc", 0.0)])
def test_a_wider_state_changes_nothing(name: str, eta: float) -> None:
    own = freeze_sampler(name, CONFIG, 5, eta)
    wide = own.widened(own.state_size + 2)
    generator = torch.Generator().manual_seed(0)
    state = own.begin(torch.randn(2, 1, 4, 4, generator=generator))
    larger = wide.begin(state[0] / own.initial_scale)
    for step in range(5):
        prediction, noise = (torch.randn(2, 1, 4, 4, generator=generator) for _ in range(2))
        state, larger = (table.advance(step, z, prediction, noise) for table, z in ((own, state), (wide, larger)))
    assert torch.allclose(larger[: own.state_size], state, atol=1e-5)
    assert (larger[own.state_size :] == 0).all()


def test_a_learned_variance_stays_at_the_end_of_a_wider_row() -> None:
    own = freeze_sampler("ddpm", {**CONFIG, "variance_type": "learned_range"}, 5, learned_variance=True)
    wide = own.widened(3)
    assert wide.coefficients.shape == (5, 18)
    assert np.array_equal(wide.coefficients[:, -2:], own.coefficients[:, -2:])
    assert wide.stochastic


@pytest.mark.parametrize("shape", [(4, 9), (5, 8), (5, 4)])
def test_coefficients_of_another_sampler_are_refused(shape: tuple[int, int]) -> None:
    table: SamplerTable = freeze_sampler("dpm-solver++", CONFIG, 5)
    with pytest.raises(PlanError, match="not a table of dpm-solver"):
        table.with_coefficients(np.zeros(shape, np.float32))


def test_a_plan_with_anothers_coefficients_is_refused_by_name(bench: Workbench, tmp_path: Path) -> None:
    plan = bench.plan_of(every_other(bench.loaded.spec), "by hand")
    (tmp_path / "plan.json").write_bytes(plan_text(replace(plan, coefficients=np.zeros((STEPS, 5), np.float32))))
    with pytest.raises(PlanError, match=r"plan\.json: the plan's coefficients are 10 rows of 5"):
        bench.load_plan(tmp_path / "plan.json")


def test_a_bundle_plays_both_tables(open_bench: OpenBench, tmp_path: Path) -> None:
    """Accelerated by the fitted coefficients, unaccelerated by the sampler's own."""
    bench, grid = open_bench(steps=STEPS), forecasting_schedule()
    trials = make_trials(Digits(bench.eager, bench.sampler), range(8))
    spec = bench.loaded.spec
    plan = make_plan(spec, grid.kept, stack=grid.stack)
    plan = replace(plan, coefficients=trials.fit_sampler(plan.schedule).coefficients)
    table = bench.build(plan, "ort", tmp_path / "bundle").table
    everything = lower_plan(compute_everything(bench), spec)
    labels, noise = torch.tensor([3, 7]), trials.sampling.noise[:2]
    rows = {"labels": torch.tensor([3, 7, 10, 10])}
    session = Session.open(tmp_path / "bundle")
    for accelerated, expected in ((True, table), (False, everything)):
        found = session.generate(labels=labels.tolist(), noise=Noise(noise.numpy()), accelerated=accelerated)
        wanted = run_reference(bench.eager, bench.sampler, expected, rows, noise)
        assert np.allclose(found, wanted.numpy(), atol=2e-5)
    plain = replace(plan, coefficients=None)
    assert not torch.allclose(
        run_reference(bench.eager, bench.sampler, lower_plan(plain, spec), rows, noise),
        run_reference(bench.eager, bench.sampler, table, rows, noise), atol=1e-4,
    )  # fmt: skip


def test_any_planners_schedule_can_be_fitted(bench: Workbench, tmp_path: Path) -> None:
    sensitivity = bench.profile(ProfileOptions(samples=4))
    options = PlanOptions(flops_ratio=2.0, planner="soda", plan_samples=4)
    plain = make_plan_for(bench, sensitivity, options).plan
    fitted = make_plan_for(bench, sensitivity, replace(options, fit_sampler="always")).plan
    assert plain.coefficients is None
    assert np.array_equal(plain.schedule.work, fitted.schedule.work)
    given = fit_plan(bench, plain, options, ProfileOptions(samples=4))  # as build --plan FILE --fit-sampler always does
    assert fitted.coefficients is not None
    np.testing.assert_array_equal(given.coefficients, fitted.coefficients)
    (tmp_path / "plan.json").write_bytes(plan_text(fitted))
    np.testing.assert_array_equal(read_plan(tmp_path / "plan.json").coefficients, fitted.coefficients)
    seeds, samples = range(1_000_000, 1_000_016), ModelSamples(bench)
    reference = samples.of_reference(seeds, 16, lambda *_: None).draw(seeds).latents
    tables = (lower_plan(plan, bench.loaded.spec) for plan in (plain, fitted))
    errors = [np.sqrt(np.mean((samples.of_table(t).draw(seeds).latents - reference) ** 2)) for t in tables]
    assert errors[1] < 0.95 * errors[0]
