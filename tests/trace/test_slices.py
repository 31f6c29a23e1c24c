"""Slices of one trace compute what the module computes with its sites' outputs replaced, whatever module and plan."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from soda_runtime import Noise

from soda_export.eager.conditions import random_texts
from soda_export.lower.lower import lower_plan
from soda_export.models.decisions import COMPUTE
from soda_export.models.identity import SamplerIdentity, identify
from soda_export.models.spec import ModelSpec
from soda_export.plan.plan import Plan
from soda_export.plan.schedule import Schedule
from soda_export.sampler import freeze_sampler
from tests.export.play import export_and_open
from tests.export.selection import SelectionRecorder, play_reference
from tests.trace.nets import SCHEDULER, TOKENS, random_net

STEPS = 7


def random_schedule(spec: ModelSpec, seed: int) -> Schedule:
    """Two whole steps, then anything that the history allows, of sites within one another too."""
    rng = np.random.default_rng(seed)
    work = Schedule.full(spec, STEPS).work
    for t in range(2, STEPS):
        for k, site in enumerate(spec.sites):
            options = [COMPUTE, 0, -1] + ([TOKENS // 4, TOKENS // 2] if site.tokens else [])
            weights = np.array([6.0] + [1.0] * (len(options) - 1)) if k in spec.leaves else np.array([8.0, 1.0, 1.0])
            work[t, k] = rng.choice(options, p=weights / weights.sum())
    return Schedule.of(spec, work)


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.long) for seed in (2, 3))])
def test_slices_of_a_random_module_equal_eager_execution_with_replaced_outputs(seed: int, tmp_path: Path) -> None:
    loaded = random_net(seed)
    spec, guidance = loaded.spec, 2.0 if seed % 2 else 1.0
    sampler = freeze_sampler("ddim", SCHEDULER, STEPS)
    plan = Plan(identify(spec), SamplerIdentity("ddim", STEPS), guidance, random_schedule(spec, seed))
    table = lower_plan(plan, spec)
    inputs = random_texts(spec, 3, seed).rows(range(3), table.rows)
    noise = torch.randn(3, *spec.latent_shape, generator=torch.Generator().manual_seed(seed))
    bench: Any = SimpleNamespace(loaded=loaded, sampler=sampler, eager=loaded.eager)
    played = export_and_open(loaded, sampler, table, tmp_path / "export")
    given = {name: value.numpy() for name, value in inputs.items()}
    whole = lower_plan(Plan(plan.model, plan.sampler, guidance, Schedule.full(spec, STEPS)), spec)
    for accelerated in (True, False):
        shown = table if accelerated else whole
        recorder = SelectionRecorder(bench, shown, tmp_path / f"debug{accelerated:d}")
        expected = play_reference(bench, shown, inputs, Noise(noise.numpy()), recorder)
        found = played.generate(given, noise.numpy(), accelerated)
        assert np.abs(found - expected).max() <= 1e-4 * max(1.0, np.abs(expected).max())


def test_what_the_timestep_and_the_request_decide_leaves_the_steps(tmp_path: Path) -> None:
    """No step program multiplies by the weights that only they need."""
    import onnx

    loaded = random_net(0)
    sampler = freeze_sampler("ddim", SCHEDULER, STEPS)
    spec = loaded.spec
    table = lower_plan(Plan(identify(spec), SamplerIdentity("ddim", STEPS), 1.0, Schedule.full(spec, STEPS)), spec)
    played = export_and_open(loaded, sampler, table, tmp_path)
    for name in played.index.programs:
        graph = onnx.load(str(tmp_path / name), load_external_data=False).graph
        weights = {tensor.name for tensor in graph.initializer}
        assert not any(w.startswith(("time.", "pool.", "word.")) or ".scales." in w for w in weights)
        assert not any(".cross.k." in w or ".cross.v." in w for w in weights)
