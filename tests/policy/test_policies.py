"""Policies as data: what they say is what their formulas say, over any state, in files and in runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from soda_runtime.policy import MOST_RUN

from soda_export.eager.adaptive import run_policy, signals_of
from soda_export.errors import UsageError
from soda_export.policy.adaptive import AdaptivePolicy
from soda_export.policy.easycache import make_easycache
from soda_export.policy.file import read_policy, write_policy
from soda_export.policy.misfit import GAP, MAX_RUN, make_misfit, variant_of
from soda_export.policy.options import PolicyOptions
from soda_export.policy.sada import make_sada
from soda_export.sampler import SamplerTable, freeze_sampler

from .mixture import MixtureSampling
from .test_sada import CASES, FLOW

STEPS = 20
CONFIG = CASES["dpm-solver++, epsilon"][1]
OWN = freeze_sampler("dpm-solver++", CONFIG, STEPS)


def sampling_of(own: SamplerTable, config: dict[str, object] = CONFIG, samples: int = 4) -> MixtureSampling:
    return MixtureSampling.of_sampler(own, config, samples)


def drawn_misfit(threshold: float = 0.05, seed: int = 0) -> AdaptivePolicy:
    """Any fills, near to holding the last prediction."""
    generator = np.random.default_rng(seed)
    fills = generator.normal(0, 0.05, (STEPS, GAP * (MAX_RUN + 1), 3)) + np.array([1.0, 0.0, 0.0])
    misfits = generator.uniform(0.5, 2.0, fills.shape[:2])
    return make_misfit(OWN, fills, misfits, np.full(STEPS, threshold))


MAKERS: dict[str, Callable[[], AdaptivePolicy]] = {
    "sada": lambda: make_sada(OWN, CONFIG), "easycache": lambda: make_easycache(OWN, 0.3), "misfit": drawn_misfit,
    "flow": lambda: make_sada(freeze_sampler("flow-euler", FLOW, STEPS), FLOW),
}  # fmt: skip


@pytest.mark.parametrize("name", MAKERS)
def test_a_policy_over_a_larger_state_is_the_same_policy(name: str) -> None:
    policy = MAKERS[name]()
    sampling = sampling_of(policy.own, FLOW if name == "flow" else CONFIG)
    own, wide = (run_policy(sampling, each) for each in (policy, policy.widened(14)))  # type: ignore[arg-type]
    assert np.array_equal(own.decisions, wide.decisions)
    assert torch.allclose(own.latents, wide.latents, rtol=1e-6, atol=1e-6)
    assert (own.decisions != 0).any()


@pytest.mark.parametrize("name", MAKERS)
def test_a_written_policy_is_read_as_it_was(name: str, tmp_path: Path) -> None:
    policy = replace(MAKERS[name](), calls=12.5)
    write_policy(policy, tmp_path)
    again = read_policy(tmp_path, policy.own)
    assert again.record() == replace(policy.record(), actions=again.record().actions)
    assert again.calls == policy.calls
    sampling = sampling_of(policy.own, FLOW if name == "flow" else CONFIG)
    first, second = (run_policy(sampling, each) for each in (policy, again))  # type: ignore[arg-type]
    assert np.array_equal(first.decisions, second.decisions)
    assert torch.equal(first.latents, second.latents)


@pytest.mark.parametrize("name", ["sada", "easycache", "misfit"])
def test_a_run_that_computes_everything_is_the_samplers_own(name: str) -> None:
    policy, sampling = MAKERS[name](), sampling_of(OWN)
    found = run_policy(sampling, policy, decisions=np.zeros((STEPS, 4), int))  # type: ignore[arg-type]
    state = OWN.begin(sampling.noise)
    for step in range(STEPS):
        state = OWN.advance(step, state, sampling.predict_at(step, state[0]), None)
    assert torch.allclose(found.latents, state[0], rtol=1e-6, atol=1e-6)
    assert found.calls.tolist() == [STEPS] * 4


@pytest.mark.parametrize("threshold", [0.05, 0.3, 1.0])
def test_easycache_skips_while_the_accumulated_change_is_under_its_threshold(threshold: float) -> None:
    """Against the paper's algorithm (arXiv 2507.02860, section 3.3) one sample at a time, with root mean squares."""
    sampling = sampling_of(OWN)
    found = run_policy(sampling, make_easycache(OWN, threshold))  # type: ignore[arg-type]
    for sample in range(4):
        one = sampling.of([sample])
        state, taken = OWN.begin(one.noise), []
        last_e = last_u = torch.zeros(())
        gain, total, action, run = 0.0, 0.0, 0, 0
        for step in range(STEPS):
            taken.append(action)
            u = state[0] * float(OWN.coefficients[step, 0])
            if action == 0:
                e = one.predict_at(step, state[0])
                gain = _norm(e - last_e) / _norm(u - last_u) if step else 0.0
                last_e, last_u, total = e, u, 0.0
                used = e
            else:
                used = u + last_e - last_u
            state = OWN.advance(step, state, used, None)
            if step + 1 < STEPS:
                following = state[0] * float(OWN.coefficients[step + 1, 0])
                total += gain * _norm(following - u) / _norm(last_e)
                run = run + 1 if action else 0
                action = int(1 <= step < STEPS - 2 and total <= threshold and run < MOST_RUN)
        assert found.decisions[:, sample].tolist() == taken
        assert torch.allclose(found.latents[[sample]], state[0], rtol=1e-4, atol=1e-4)


@given(st.integers(1, STEPS - 1), st.integers(1, GAP), st.integers(0, MAX_RUN), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_misfits_signals_say_what_is_expected_of_the_next_step(step: int, gap: int, run: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    fills = generator.normal(0, 1, (STEPS, GAP * (MAX_RUN + 1), 3))
    misfits = generator.uniform(0.5, 2.0, fills.shape[:2])
    policy = make_misfit(OWN, fills, misfits, np.ones(STEPS))
    n, following = OWN.state_size, min(step + 1, STEPS - 1)
    before, after = torch.randn(2, policy.state_size, 3, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    c1, c2, cx = fills[step, variant_of(gap, run)]
    found = after[n] - (c1 * before[n] + c2 * before[n + 1] + cx * before[0])
    relative = (found**2).flatten(1).mean(1) / (after[n] ** 2).flatten(1).mean(1)
    computed = signals_of(torch.from_numpy(policy.forms(0, step, variant_of(gap, run))), before, after).double()
    value = computed[:, 0] / computed[:, 1] * computed[:, 2] / computed[:, 3]
    growth = misfits[following, variant_of(min(run + 1, GAP), 0)] / misfits[step, variant_of(gap, run)]
    assert torch.allclose(value, relative.double() * growth, rtol=1e-4)
    if run < MAX_RUN:  # after a skipped step the last signal leads from the first of the run to the next of it
        skipped = signals_of(torch.from_numpy(policy.forms(1, step, variant_of(gap, run))), before, after)
        growth = misfits[following, variant_of(gap, run + 1)] / misfits[max(0, step - run), variant_of(gap, 0)]
        shrinks = 1 / (growth * ((run + 2) ** 2 - (run + 1) ** 2))  # errors of a row add up
        assert torch.allclose(skipped[:, 3].double(), torch.tensor(shrinks))


def test_what_a_policy_does_decides_its_hash() -> None:
    policy = drawn_misfit()
    assert policy.content == drawn_misfit().content
    assert policy.content != drawn_misfit(threshold=0.06).content
    assert policy.content != drawn_misfit(seed=1).content
    assert policy.content == replace(policy, calls=3.0).content


REFUSED = {
    "calls alone": (PolicyOptions(calls=10), "--calls: goes with --policy"),
    "samples alone": (PolicyOptions(policy_samples=8), "--policy-samples: goes with --policy"),
    "no calls": (PolicyOptions("misfit"), "--policy misfit: give --calls, e.g. --calls 24 of 50 steps"),
    "neither": (PolicyOptions("easycache"), "--policy easycache: give one of --calls and --threshold"),
    "both": (PolicyOptions("easycache", 10, 0.1), "--policy easycache: give one of --calls and --threshold"),
    "calls of sada": (PolicyOptions("sada", 24), "--calls: --policy sada decides as published"),
    "a threshold of misfit": (PolicyOptions("misfit", threshold=0.1), "--threshold: is easycache's"),
    "one call": (PolicyOptions("misfit", 1), "--calls 1: must be a number from 2"),
    "every call": (PolicyOptions("misfit", 50), "--calls 50: must be a number from 2, below the 50 steps"),
    "no number": (PolicyOptions("misfit", float("nan")), "--calls nan: must be a number from 2"),
    "a negative threshold": (PolicyOptions("easycache", threshold=-1), "--threshold -1: must be above 0"),
    "no samples": (PolicyOptions("misfit", 24, policy_samples=0), "--policy-samples 0: at least 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_options_that_do_not_go_together_are_refused(case: str) -> None:
    options, message = REFUSED[case]
    with pytest.raises(UsageError) as error:
        options.check(50)
    assert str(error.value).startswith(message)


def _norm(values: torch.Tensor) -> float:
    return float((values**2).mean().sqrt())
