"""Exported programs in both graph engines against the eager reference, and the whole against diffusers' own loop."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiTTransformer2DModel
from soda_runtime import Noise, Session
from torch import Tensor

from soda_export.eager.hints import random_conditions
from soda_export.models.decisions import COMPUTE, IDLE, MAX_ORDER
from soda_export.models.load import ModelRequest
from soda_export.models.spec import ModelSpec
from soda_export.options import BundleOptions, SamplerOptions
from soda_export.plan.schedule import Schedule
from soda_export.sampler import make_scheduler
from soda_export.workbench.pipeline import Workbench
from soda_export.workbench.stages import StageStore
from tests.conftest import OpenBench
from tests.export.selection import SelectionRecorder, label_rows, play_reference
from tests.tiny import CLASSES, LAYERS, TOKENS, make_plan
from tests.tiny_models import save_tiny_flux, save_tiny_sd3, save_tiny_unet

TOLERANCE = 1e-3
LONG_SEEDS = [pytest.param(seed, marks=pytest.mark.long) for seed in (1, 4, 8, 9, 10, 12, 13)]
BACKENDS = ("ort", "openvino")  # their engines are the same graphs


def random_kept(seed: int) -> np.ndarray:
    """A random plan of 10 steps with prune after prune, and a slot that is reused over at least 3 steps."""
    rng = np.random.default_rng(seed)
    kept = rng.choice([0, 0, 2, 4, 6, 10, TOKENS], (10, LAYERS, 2))
    kept[0] = TOKENS
    kept[rng.integers(5, 10)] = TOKENS
    kept[1:3, 0, 1] = [4, 6]
    kept[1:5, 1, 0] = 0
    return kept


def random_stack(kept: np.ndarray, seed: int) -> np.ndarray:
    """Skips all blocks at two steps, and makes half of the reuses in `kept` forecasts, as far as history allows."""
    rng, stack = np.random.default_rng(seed), np.full(len(kept), -1)
    stack[[4, 8]] = [0, rng.integers(1, 3)]
    kept[kept == 0] = -rng.integers(0, 3, (kept == 0).sum())
    kept[stack >= 0] = 0
    for t in range(len(kept)):
        computed = (kept[:t][stack[:t] < 0] == TOKENS).sum(axis=0)
        kept[t] = np.maximum(kept[t], 1 - computed)
    return stack


def random_work(spec: ModelSpec, steps: int, seed: int) -> np.ndarray:
    """Every decision of every site at random, as far as its history allows; the stack is skipped at two steps."""
    rng, work = np.random.default_rng(seed), np.full((steps, len(spec.sites)), COMPUTE)
    for t in range(1, steps):
        order = [rng.integers(0, min(MAX_ORDER, count - 1) + 1) for count in (work[:t] == COMPUTE).sum(axis=0)]
        for k in reversed(range(len(spec.sites))):  # what contains a site stands behind it
            site, choice = spec.sites[k], rng.random()
            if any(work[t, outer] != COMPUTE for outer in spec.containers[k]):
                work[t, k] = IDLE
            elif k == spec.stack:
                work[t, k] = -order[k] if t in (4, steps - 2) else COMPUTE
            elif choice < (0.4 if k in spec.leaves else 0.25):
                work[t, k] = -order[k]
            elif choice < 0.7 and site.tokens:
                work[t, k] = rng.integers(1, site.tokens // site.keep_quantum) * site.keep_quantum
    return work


def noise_for(batch: int, steps: int, stochastic: bool, shape: tuple[int, ...] = (1, 8, 8)) -> Noise:
    rng = np.random.default_rng(5)
    initial = rng.standard_normal((batch, *shape)).astype(np.float32)
    return Noise(initial, rng.standard_normal((steps, batch, *shape)).astype(np.float32) if stochastic else None)


@pytest.mark.parametrize("seed", [0, 5, 11, *LONG_SEEDS])
def test_random_plans_equal_the_reference(open_bench: OpenBench, tmp_path: Path, seed: int) -> None:
    """Plans 0-4 have guidance, 5-10 not; odd ones are stochastic. From 10 on there are forecasts and skipped stacks.
    Each is played with batch 1 and 4."""
    guidance, eta = (1.5 if seed < 5 or seed > 10 else 1.0), float(seed % 2)
    bench = open_bench(steps=10, eta=eta, guidance=guidance)
    kept = random_kept(seed)
    stack = random_stack(kept, seed) if seed >= 10 else None
    plan = make_plan(bench.loaded.spec, kept, eta=eta, guidance=guidance, stack=stack)
    built = bench.build(plan, "ort", tmp_path / "bundle")
    recorder = SelectionRecorder(bench, built.table, tmp_path / "debug")
    sessions = {backend: Session.open(built.out, backend=backend) for backend in BACKENDS}
    for batch in (1, 4):
        labels = [(3 * i + seed) % CLASSES for i in range(batch)]
        noise = noise_for(batch, 10, bench.sampler.stochastic)
        expected = play_reference(bench, built.table, label_rows(labels, bench), noise, recorder)
        for backend, session in sessions.items():
            played = session.generate(labels, noise=noise)
            print(f"plan {seed} batch {batch} {backend}: difference {np.abs(played - expected).max():.1e}")
            assert np.abs(played - expected).max() <= TOLERANCE


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
@torch.no_grad()
def test_computing_everything_equals_the_diffusers_loop(
    open_bench: OpenBench, tiny_model: Path, tmp_path: Path, sampler: str
) -> None:
    steps, batch = 10, 4
    bench = open_bench(sampler=sampler, steps=steps)
    spec = bench.loaded.spec
    plan = make_plan(spec, np.full((steps, LAYERS, 2), TOKENS), sampler=sampler)
    session = Session.open(bench.build(plan, "ort", tmp_path / "bundle").out)
    model = DiTTransformer2DModel.from_pretrained(tiny_model / "transformer").eval()
    scheduler = make_scheduler(sampler, bench.loaded.scheduler_config)
    labels, noise = torch.arange(batch), noise_for(batch, steps, stochastic=True)
    expected = diffusers_loop(model, scheduler, labels, torch.from_numpy(noise.initial), 1.5, steps)
    # DDPM draws its noise from a generator; give the session the same draws
    generator = torch.Generator().manual_seed(3)
    drawn = [torch.randn(batch, 1, 8, 8, generator=generator) for _ in range(steps)]
    given = Noise(noise.initial, np.stack([d.numpy() for d in drawn]) if sampler == "ddpm" else None)
    found = session.generate(labels.tolist(), noise=given)
    assert np.abs(found - expected.numpy()).max() <= TOLERANCE


def diffusers_loop(
    model: DiTTransformer2DModel, scheduler: object, labels: Tensor, latents: Tensor, guidance: float, steps: int
) -> Tensor:
    """DiTPipeline's own loop from given latents; null class = num_embeds_ada_norm."""
    scheduler.set_timesteps(steps)  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(3)
    null = torch.full_like(labels, model.config.num_embeds_ada_norm)
    channels = latents.shape[1]
    for t in scheduler.timesteps:  # type: ignore[attr-defined]
        both = scheduler.scale_model_input(torch.cat([latents] * 2), t)  # type: ignore[attr-defined]
        output = model(both, t.expand(len(both)), torch.cat([labels, null])).sample[:, :channels]
        conditional, unconditional = output.chunk(2)
        output = unconditional + guidance * (conditional - unconditional)
        latents = scheduler.step(output, t, latents, generator=generator).prev_sample  # type: ignore[attr-defined]
    return latents


def test_rows_of_a_batch_equal_single_runs(tiny_bundle: object) -> None:
    session = Session.open(tiny_bundle.out)  # type: ignore[attr-defined]
    noise = noise_for(4, 8, stochastic=False)
    together = session.generate([1, 2, 3, 4], noise=noise)
    for i in range(4):
        alone = session.generate(i + 1, noise=Noise(noise.initial[i : i + 1]))
        np.testing.assert_allclose(together[i : i + 1], alone, atol=1e-4)


TRACED_STEPS = 8
NO_PARTS = BundleOptions(without=("text-encoder", "decoder"))


@pytest.fixture(
    scope="module", params=["flux", "sd15", *(pytest.param(name, marks=pytest.mark.long) for name in ("sd3", "sdxl"))]
)
def traced_bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """A toy FLUX with 64 tokens, which takes its guidance as a number; a toy SD3 with 16 and two rows a sample; UNets,
    whose sites lie in one another."""
    root, guidance, sampler = tmp_path_factory.mktemp("traced"), 4.5, "flow-euler"
    if request.param == "flux":
        model, guidance = ModelRequest(str(save_tiny_flux(root / "flux")), image_size=32), 1.0
    elif request.param == "sd3":
        model = ModelRequest(str(save_tiny_sd3(root / "sd3")))
    else:
        model, sampler = ModelRequest(str(save_tiny_unet(root / request.param, request.param))), "euler"
    options = SamplerOptions(sampler, TRACED_STEPS, 0.0, guidance)
    return Workbench(model, options, StageStore(root / "store"), lambda *_: None)


def texts_for(bench: Workbench, batch: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Random texts, and each number's default: for the reference and for a session."""
    spec = bench.loaded.spec
    conditions = random_conditions(spec, batch, batch)
    samples = conditions.rows(range(batch), 1)
    asked = {"inputs": _arrays(samples), "batch": batch}
    if bench.rows == 2:
        asked["negative_inputs"] = _arrays(conditions.negative)
    return conditions.rows(range(batch), bench.rows), asked


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in tensors.items()}


@pytest.mark.parametrize("seed", [0, *(pytest.param(number, marks=pytest.mark.long) for number in (1, 2))])
def test_random_plans_of_other_families_equal_the_reference(
    traced_bench: Workbench, tmp_path: Path, seed: int
) -> None:
    """All sites reused, forecast and renewed apart, those inside others too. Each is played with batch 1 and 3."""
    spec = traced_bench.loaded.spec
    plan = traced_bench.plan_of(Schedule.of(spec, random_work(spec, TRACED_STEPS, seed)), "chance")
    built = traced_bench.build(plan, "ort", tmp_path / "bundle", NO_PARTS)
    recorder = SelectionRecorder(traced_bench, built.table, tmp_path / "debug")
    sessions = {backend: Session.open(built.out, backend=backend) for backend in BACKENDS}
    for batch in (1, 3):
        rows, asked = texts_for(traced_bench, batch)
        noise = noise_for(batch, TRACED_STEPS, False, spec.latent_shape)
        expected = play_reference(traced_bench, built.table, rows, noise, recorder)
        for backend, session in sessions.items():
            played = session.generate(**asked, noise=noise)
            print(f"{spec.family} {seed} batch {batch} {backend}: difference {np.abs(played - expected).max():.1e}")
            assert np.abs(played - expected).max() <= TOLERANCE
