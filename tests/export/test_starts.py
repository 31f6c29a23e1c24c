"""Random plans whose requests start at every step, against the eager reference that does the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from soda_runtime import Noise, Session

from soda_export.eager.reference import Start, run_reference
from soda_export.sampler import MEMORY, freeze_starts
from tests.conftest import OpenBench
from tests.export.selection import label_rows
from tests.tiny import CLASSES, LAYERS, TOKENS, make_plan

from .test_against_reference import noise_for

STEPS, BATCH, BAR = 10, 2, 1e-3
SAMPLERS = ("ddim", "dpm-solver++", "unipc", "ddpm", "euler")
QUICK = {(0, False), (1, True), (2, True), (3, False)}
CASES = [
    pytest.param(seed, fitted, marks=[pytest.mark.long] * ((seed, fitted) not in QUICK))
    for seed in range(len(SAMPLERS)) for fitted in (False, True)
]  # fmt: skip


def plan_of_few_anchors(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Anchors at which everything is computed, and between them steps that reuse, forecast and renew at random. The
    first one after step 0 needs nothing older; a forecast after the second may."""
    rng, stack = np.random.default_rng(seed), np.full(STEPS, -1)
    kept = rng.choice([0, 0, 2, 6, TOKENS], (STEPS, LAYERS, 2))
    anchor, later = 3 + seed % 2, 7
    kept[[0, anchor, later]] = TOKENS
    stack[[2, 8]] = 0
    kept[stack >= 0] = 0
    for t in range(STEPS):
        known = kept[anchor if t > anchor else 0 : t][stack[anchor if t > anchor else 0 : t] < 0]
        order = np.clip((known == TOKENS).sum(axis=0) - 1, 0, 2) * (rng.random((LAYERS, 2)) < 0.5)
        kept[t] = np.where((kept[t] == 0) & (stack[t] < 0), -order, kept[t])
    return kept, stack


@pytest.mark.parametrize(("seed", "fitted"), CASES)
def test_every_start_of_a_random_plan_equals_the_reference(
    open_bench: OpenBench, tmp_path: Path, seed: int, fitted: bool
) -> None:
    sampler = SAMPLERS[seed]
    bench = open_bench(sampler, steps=STEPS)
    kept, stack = plan_of_few_anchors(seed)
    plan = make_plan(bench.loaded.spec, kept, sampler, stack=stack)
    if fitted:  # any coefficients near the sampler's own: a start takes those
        wide = bench.sampler.widened(bench.sampler.state_size + MEMORY).coefficients
        plan = replace(plan, coefficients=(1.1 * wide).tolist())
    built = bench.build(plan, "ort", tmp_path / "bundle")
    session, table = Session.open(built.out), built.table
    starts = freeze_starts(bench.sampler, bench.loaded.scheduler_config)
    assert starts is not None
    labels, noise = [seed, CLASSES - 1], noise_for(BATCH, STEPS, bench.sampler.stochastic)
    latents, rows = noise_for(BATCH, 1, True).steps[0], label_rows(labels, bench)  # type: ignore[index]
    later = None if noise.steps is None else torch.from_numpy(noise.steps)
    seen = []
    for first in range(STEPS):
        found = session.generate(labels, noise=noise, start_latents=latents, start_step=first)
        expected = run_reference(
            bench.eager, bench.sampler, table, rows, torch.from_numpy(noise.initial), later,
            start=Start(starts, first, torch.from_numpy(latents)),
        ).numpy()  # fmt: skip
        cached = session.playback.cached
        seen.append(STEPS - first - len(cached))
        difference = np.abs(found - expected).max() / np.abs(expected).max()
        print(f"{sampler} start {first}: {seen[-1]} steps in full, difference {difference:.1e}")
        assert difference <= BAR
    assert seen[0] == 0
    assert 0 < max(seen[3:5]) < STEPS - 5


def test_a_start_without_acceleration_is_a_start_of_a_plan_that_computes_everything(
    open_bench: OpenBench, tmp_path: Path
) -> None:
    bench = open_bench("dpm-solver++", steps=STEPS)
    kept, stack = plan_of_few_anchors(1)
    spec = bench.loaded.spec
    built = bench.build(make_plan(spec, kept, "dpm-solver++", stack=stack), "ort", tmp_path / "bundle")
    full = bench.build(make_plan(spec, np.full((STEPS, LAYERS, 2), TOKENS), "dpm-solver++"), "ort", tmp_path / "full")
    noise, asked = noise_for(BATCH, STEPS, False), {"start_step": 4}
    latents = noise_for(BATCH, 1, True).steps
    assert latents is not None
    found = Session.open(built.out).generate([1, 2], noise=noise, start_latents=latents[0], accelerated=False, **asked)
    expected = Session.open(full.out).generate([1, 2], noise=Noise(noise.initial), start_latents=latents[0], **asked)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
