"""Exported programs in both graph engines against the eager reference, and the whole against diffusers' own loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiTTransformer2DModel
from soda_runtime import Noise, Session
from torch import Tensor

from soda_export.sampler import make_scheduler
from tests.conftest import OpenBench
from tests.export.selection import SelectionRecorder, label_rows, play_reference
from tests.tiny import CLASSES, LAYERS, TOKENS, make_plan

TOLERANCE = 1e-3
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


def noise_for(batch: int, steps: int, stochastic: bool) -> Noise:
    rng = np.random.default_rng(5)
    initial = rng.standard_normal((batch, 1, 8, 8)).astype(np.float32)
    return Noise(initial, rng.standard_normal((steps, batch, 1, 8, 8)).astype(np.float32) if stochastic else None)


@pytest.mark.parametrize("seed", range(16))
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
    for batch in (1, 4):
        labels = [(3 * i + seed) % CLASSES for i in range(batch)]
        noise = noise_for(batch, 10, bench.sampler.stochastic)
        expected = play_reference(bench, built.table, label_rows(labels, bench), noise, recorder)
        for backend in BACKENDS:
            played = Session.open(built.out, backend=backend).generate(labels, noise=noise)
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
