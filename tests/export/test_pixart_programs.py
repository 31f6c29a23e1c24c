"""A text model's programs: ONNX Runtime against the reference, and the whole against diffusers' own pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DiTTransformer2DModel
from soda_runtime import Embeds, Noise, Session
from soda_runtime.errors import RequestError
from torch import Tensor

from soda_export.lower.lower import lower_plan
from soda_export.options import BundleOptions, SamplerOptions
from soda_export.sampler import make_scheduler
from soda_export.workbench.pipeline import Built, Workbench
from soda_export.workbench.stages import StageStore
from tests.conftest import OpenBench
from tests.export.play import export_and_open
from tests.export.selection import SelectionRecorder, play_reference
from tests.tiny import LAYERS, TOKENS, make_plan, mixed_kept, save_tiny_model

TOLERANCE = 1e-3
STEPS = 8
PROMPTS, NEGATIVE = ["a blue square above a red circle", "red"], "a circle"  # the first is cut at 8 tokens
LATENT = (4, 8, 8)
GENTLE = {"beta_end": 0.002}  # a random model's errors are not blown up, so latents stay near 1


def random_kept(seed: int) -> np.ndarray:
    """A random plan with prune after prune in all three modules, and cross-attention reused alone."""
    rng = np.random.default_rng(seed)
    kept = rng.choice([0, 0, 2, 4, 6, 10, TOKENS], (STEPS, LAYERS, 3))
    kept[0] = TOKENS
    kept[rng.integers(4, STEPS)] = TOKENS
    kept[1:3, 0, :] = [[4, 6, 10], [2, 4, 6]]
    kept[1:4, 1] = [TOKENS, 0, TOKENS]
    return kept


def noise_for(batch: int, stochastic: bool, shape: tuple[int, ...] = LATENT) -> Noise:
    rng = np.random.default_rng(5)
    initial = rng.standard_normal((batch, *shape)).astype(np.float32)
    return Noise(initial, rng.standard_normal((STEPS, batch, *shape)).astype(np.float32) if stochastic else None)


def random_text(batch: int, rows: int) -> tuple[dict[str, Tensor], Embeds]:
    """Captions of different lengths, the negative one per sample; for the reference and for a session."""
    rng = np.random.default_rng(batch)
    embeds = rng.standard_normal((batch * rows, 8, 16)).astype(np.float32)
    mask = (np.arange(8) < rng.integers(1, 9, batch * rows)[:, None]).astype(np.int64)
    given = Embeds(embeds[:batch], mask[:batch], *((embeds[batch:], mask[batch:]) if rows == 2 else ()))
    return {"embeds": torch.from_numpy(embeds), "attention_mask": torch.from_numpy(mask)}, given


LEARNED = {"variance_type": "learned_range"}


@pytest.mark.parametrize(
    ("sampler", "guidance", "guided", "scheduler", "state_size"),
    [
        ("dpm-solver++", 4.5, 0, {}, 2),
        ("unipc", 1.0, 0, {}, 4),
        pytest.param("euler", 4.5, 0, {}, 1, marks=pytest.mark.long),
        ("ddpm", 4.5, 3, LEARNED, 1),
        pytest.param("ddpm", 1.0, 0, LEARNED, 1, marks=pytest.mark.long),
        ("ddpm", 2.0, 0, {"variance_type": "fixed_small"}, 1),
    ],
    ids=["dpm-solver++", "unipc, no guidance", "euler", "ddpm learned, 3 channels guided",
         "ddpm learned, no guidance", "ddpm fixed, variance channels dropped"],
)  # fmt: skip
def test_random_plans_equal_the_reference(
    open_text_bench: OpenBench, tmp_path: Path, request: pytest.FixtureRequest, sampler: str, guidance: float,
    guided: int, scheduler: dict[str, object], state_size: int,
) -> None:  # fmt: skip
    bench = open_text_bench(sampler, STEPS, guidance, guided, scheduler)
    assert (bench.sampler.state_size, bench.sampler.learned_variance) == (state_size, scheduler == LEARNED)
    seed = sum(map(ord, request.node.name))
    plan = make_plan(bench.loaded.spec, random_kept(seed), sampler, guidance=guidance, guided_channels=guided)
    built = bench.build(plan, "ort", tmp_path / "bundle", BundleOptions(without=("text-encoder", "decoder")))
    recorder = SelectionRecorder(bench, built.table, tmp_path / "debug")
    for batch in (1, 4):
        text, given = random_text(batch, plan.rows)
        noise = noise_for(batch, bench.sampler.stochastic)
        expected = play_reference(bench, built.table, text, noise, recorder)
        played = Session.open(built.out).generate(embeds=given, noise=noise)
        difference = float(np.abs(played - expected).max())
        print(f"{sampler}, batch {batch}: difference {difference:.1e} of {np.abs(expected).max():.1f}")
        assert difference <= TOLERANCE


def all_compute(bench: Workbench, out: Path, options: BundleOptions = BundleOptions()) -> Built:
    spec, sampler = bench.loaded.spec, bench.options
    kept = np.full((sampler.steps, LAYERS, 3), TOKENS)
    return bench.build(make_plan(spec, kept, sampler.sampler, guidance=sampler.guidance), "ort", out, options)


@pytest.fixture(scope="module")
def whole(open_text_bench: OpenBench, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """An all-compute bundle with text encoder and decoder."""
    return all_compute(open_text_bench(scheduler=GENTLE), tmp_path_factory.mktemp("shelf") / "whole")


def pipeline(folder: Path) -> Any:
    from diffusers import PixArtAlphaPipeline

    made = PixArtAlphaPipeline.from_pretrained(folder, low_cpu_mem_usage=False)
    made.set_progress_bar_config(disable=True)
    return made


def draw(pipe: Any, noise: np.ndarray, kind: str) -> np.ndarray:
    result: np.ndarray = np.asarray(
        pipe(
            PROMPTS, negative_prompt=NEGATIVE, num_inference_steps=STEPS, guidance_scale=4.5,
            latents=torch.from_numpy(noise), height=16, width=16, output_type=kind, use_resolution_binning=False,
            clean_caption=False, max_sequence_length=8,
        ).images
    )  # fmt: skip
    return result


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("sampler", ["dpm-solver++", "euler"])
def test_computing_everything_equals_the_diffusers_pipeline(
    open_text_bench: OpenBench, tiny_pixart: Path, whole: Built, tmp_path: Path, sampler: str
) -> None:
    pipe, noise = pipeline(tiny_pixart), noise_for(2, stochastic=False)
    bench = open_text_bench(sampler, scheduler=GENTLE)
    pipe.scheduler = make_scheduler(sampler, bench.loaded.scheduler_config)
    built = whole if sampler == "dpm-solver++" else all_compute(bench, tmp_path / "bundle")
    session = Session.open(built.out)
    latents = session.generate(prompt=PROMPTS, negative_prompt=NEGATIVE, noise=noise)
    images = session.images()
    expected, expected_images = draw(pipe, noise.initial, "latent"), draw(pipe, noise.initial, "np")
    differences = [float(np.abs(a - b).max()) for a, b in ((latents, expected), (images, expected_images))]
    print(f"{sampler}: latents {differences[0]:.1e} of {np.abs(expected).max():.1f}, images {differences[1]:.1e}")
    assert images.shape == (2, 16, 16, 3)
    assert images.std() > 0.01
    assert max(differences) <= 1e-4


def test_rows_of_a_batch_equal_single_runs_whatever_the_prompts_lengths(whole: Built) -> None:
    session, noise = Session.open(whole.out), noise_for(2, stochastic=False)
    together = session.generate(prompt=PROMPTS, negative_prompt=NEGATIVE, noise=noise)
    for i, prompt in enumerate(PROMPTS):
        alone = session.generate(prompt=prompt, negative_prompt=NEGATIVE, noise=Noise(noise.initial[i : i + 1]))
        np.testing.assert_allclose(together[i : i + 1], alone, rtol=0, atol=1e-4)
    other = session.generate(prompt=PROMPTS[::-1], negative_prompt=NEGATIVE, noise=noise)
    assert np.abs(together - other).max() > 1e-3


def test_a_bundle_without_text_encoder_and_decoder_takes_embeddings_and_gives_the_same_latents(
    open_text_bench: OpenBench, whole: Built, tmp_path: Path
) -> None:
    bench = open_text_bench(scheduler=GENTLE)
    bare = all_compute(bench, tmp_path / "bare", BundleOptions(without=("text-encoder", "decoder")))
    session, noise = Session.open(bare.out), noise_for(2, stochastic=False)
    manifest = session.bundle.manifest
    assert (manifest.finish, manifest.weights, manifest.tokenizers) == ((), ("weights.safetensors",), ())
    assert [program.file for program in manifest.prepare] == ["request.onnx", "steps.onnx"]
    texts = bench.components.encode([*PROMPTS, NEGATIVE]).positive
    embeds, mask = texts["embeds"].numpy(), texts["attention_mask"].numpy()
    found = session.generate(embeds=Embeds(embeds[:2], mask[:2], embeds[2:], mask[2:]), noise=noise)
    expected = Session.open(whole.out).generate(prompt=PROMPTS, negative_prompt=NEGATIVE, noise=noise)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    with pytest.raises(RequestError, match="no decoder"):
        session.images()
    with pytest.raises(RequestError, match="no text encoder"):
        session.generate(prompt="a red circle")


@pytest.mark.parametrize("left_out", ["text-encoder", "decoder"])
def test_either_part_can_be_left_out_alone(
    open_text_bench: OpenBench, whole: Built, tmp_path: Path, left_out: Any
) -> None:
    built = all_compute(open_text_bench(scheduler=GENTLE), tmp_path / "bundle", BundleOptions(without=(left_out,)))
    manifest, full = (Session.open(b.out).bundle.manifest for b in (built, whole))
    gone = {name for name in full.files if name not in manifest.files}
    parts = {
        "text-encoder": {"text-encoder.onnx", "text-encoder.safetensors", "tokenizer.json"},
        "decoder": {"decoder.onnx", "decoder.safetensors"},
    }
    assert gone == parts[left_out]


def test_cached_cross_attention_is_not_computed(
    open_text_bench: OpenBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that reuses it takes neither keys nor values nor the mask; one layer of it takes that layer's alone."""
    monkeypatch.setattr("soda_export.export.crossing._SMALL", 0)  # each value that a request decides crosses alone
    bench = open_text_bench()
    kept = mixed_kept(modules=3)
    kept[1, 2, 1] = TOKENS
    plan = make_plan(bench.loaded.spec, kept, "dpm-solver++", guidance=4.5)
    table = lower_plan(plan, bench.loaded.spec)
    played = export_and_open(bench.loaded, bench.sampler, table, tmp_path / "export")
    shapes = {tensor.name: tensor.shape for tensor in played.index.tensors if not tensor.per_step}
    assert len(shapes) == 2 * LAYERS + 1  # a step that renews some of it takes no others
    taken = [[shapes[n] for n in played.index.inputs[i] if n in shapes] for i in table.step_programs]
    text, mask = [(2, 24, 8), (2, 8, 24)], [(2, 1, 8)]  # keys and values of a layer's heads; one bias for all layers
    assert sorted(taken[0]) == sorted(text * LAYERS + mask)
    assert sorted(taken[1]) == sorted(text + mask)
    assert taken[4] == []


@torch.no_grad()
def test_a_dit_with_a_learned_variance_equals_the_ddpm_loop(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model", in_channels=4, out_channels=8)
    DDPMScheduler(clip_sample=False, variance_type="learned_range", beta_end=0.002).save_config(folder / "scheduler")
    bench = Workbench(str(folder), SamplerOptions("ddpm", STEPS, 0.0, 4.0), StageStore(tmp_path / "w"), lambda *_: None)
    assert bench.sampler.learned_variance
    session = Session.open(all_compute(bench, tmp_path / "bundle").out)
    model = DiTTransformer2DModel.from_pretrained(folder / "transformer").eval()
    generator = torch.Generator().manual_seed(3)
    steps = [torch.randn(4, *LATENT, generator=generator) for _ in range(STEPS)]
    noise = Noise(noise_for(4, stochastic=False).initial, np.stack([n.numpy() for n in steps]))
    found = session.generate([0, 3, 5, 9], noise=noise)
    expected = _ddpm_loop(model, bench.loaded.scheduler_config, torch.tensor([0, 3, 5, 9]), noise.initial, 4.0)
    difference = float(np.abs(found - expected.numpy()).max())
    print(f"difference {difference:.1e} of {expected.abs().max():.1f}")
    assert difference <= 1e-4


def _ddpm_loop(
    model: DiTTransformer2DModel, config: dict[str, Any], labels: Tensor, noise: np.ndarray, guidance: float
) -> Tensor:
    """DiTPipeline's own loop: the noise is guided, the variance is the conditional half's."""
    scheduler, generator = DDPMScheduler.from_config(config), torch.Generator().manual_seed(3)
    scheduler.set_timesteps(STEPS)
    null, latents = torch.full_like(labels, 10), torch.from_numpy(noise)
    for t in scheduler.timesteps:
        output = model(torch.cat([latents] * 2), t.expand(2 * len(labels)), torch.cat([labels, null])).sample
        (c, variance), (u, _) = (half.chunk(2, dim=1) for half in output.chunk(2))
        guided = torch.cat([u + guidance * (c - u), variance], dim=1)
        latents = scheduler.step(guided, t, latents, generator=generator).prev_sample
    return latents
