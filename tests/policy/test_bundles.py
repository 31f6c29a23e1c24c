"""A policy from calibration to a bundle: engines decide as the eager run does, and end where it ends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from soda_runtime import Session
from soda_runtime.philox import INITIAL_STREAM, latent_noise
from soda_runtime.policy import FULL

from soda_export.eager.adaptive import run_policy
from soda_export.eager.sampling import Sampling
from soda_export.errors import PlanError, UsageError
from soda_export.options import BundleOptions, ProfileOptions
from soda_export.plan.schedule import Schedule
from soda_export.policy.catalog import POLICIES, PolicyName
from soda_export.policy.options import PolicyOptions
from soda_export.search.measuring import make_policy
from soda_export.workbench.pipeline import Workbench
from tests.conftest import OpenBench
from tests.runtime.bundles import relative

STEPS, SAMPLES = 12, 3


def options_of(name: PolicyName) -> PolicyOptions:
    return PolicyOptions(name, calls=0.0 if name.startswith("sada") else 7.0, policy_samples=6)


@pytest.mark.parametrize("name", POLICIES)
def test_engines_decide_as_the_eager_run_does(open_bench: OpenBench, tmp_path: Path, name: PolicyName) -> None:
    bench = open_bench(steps=STEPS, guidance=1.5, sampler="dpm-solver++")
    policy = make_policy(bench, options_of(name), ProfileOptions())
    spec = bench.loaded.spec
    built = bench.build(bench.plan_of(Schedule.full(spec, STEPS), "by hand"), "ort", tmp_path / "out", policy=policy)
    assert sum(program.skips for program in built.table.programs) == 1
    session = Session.open(built.out, threads=1)
    found = session.generate([1, 2, 3], seed=5)
    reference = run_policy(_sampling(bench), policy)
    assert np.array_equal(session.decisions, reference.decisions)
    assert relative(found, reference.latents.numpy()) < 1e-3
    if not name.startswith("sada"):
        assert abs(policy.calls - 7.0) <= 1.5
        assert (reference.decisions != FULL).sum() > 0


def test_a_calibrated_policy_is_taken_from_its_file(open_bench: OpenBench) -> None:
    bench = open_bench(steps=STEPS, guidance=1.5, sampler="dpm-solver++")
    first = make_policy(bench, options_of("misfit"), ProfileOptions())
    bench.store.reused.clear()
    again = make_policy(bench, options_of("misfit"), ProfileOptions())
    assert "calibration" in bench.store.reused
    assert (first.content, first.calls) == (again.content, again.calls)


def test_what_a_policy_cannot_go_with_is_refused(open_bench: OpenBench, tmp_path: Path) -> None:
    bench = open_bench(steps=STEPS, guidance=1.5, sampler="dpm-solver++")
    policy = make_policy(bench, options_of("easycache"), ProfileOptions())
    plan = bench.plan_of(Schedule.full(bench.loaded.spec, STEPS), "by hand")
    with pytest.raises(UsageError, match="--policy: a bundle that inpaints follows its schedule"):
        bench.build(plan, "ort", tmp_path / "out", BundleOptions(inpainting=True), policy=policy)
    assert not (tmp_path / "out").exists()
    two_numbers = open_bench(steps=STEPS, sampler="pndm")
    with pytest.raises(PlanError, match="--policy sada: pndm mixes no clean sample"):
        make_policy(two_numbers, options_of("sada"), ProfileOptions())


def _sampling(bench: Workbench) -> Sampling:
    spec = bench.loaded.spec
    port = spec.port("label")
    assert port is not None
    rows = {port.name: torch.tensor([1, 2, 3, *[port.null_class] * SAMPLES])}
    noise = torch.from_numpy(latent_noise(5, INITIAL_STREAM, SAMPLES, spec.latent_shape))
    return Sampling(bench.eager, bench.eager.place(rows), noise, bench.options.guidance, 2)
