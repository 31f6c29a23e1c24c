"""A toy Open-Sora: called as the release calls it, and a bundle that makes what its loop makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from soda_runtime import Noise, Session
from torch import Tensor

from soda_export.eager.conditions import random_texts
from soda_export.errors import ModelError
from soda_export.models.load import LoadedModel, load_model
from soda_export.models.own.stdit import STDiT3
from soda_export.models.request import ModelRequest
from soda_export.options import BundleOptions, SamplerOptions, defaults_for
from soda_export.plan.schedule import Schedule
from soda_export.sampler import freeze_sampler
from soda_export.sampler.levels import clean_sample, levels_of
from soda_export.workbench.pipeline import Workbench
from soda_export.workbench.stages import StageStore
from tests.tiny_models import save_tiny_opensora

STEPS, GUIDANCE, LENGTHS = 6, 7.0, (3, 8)
CONFIG = {"_class_name": "RFlowScheduler", "num_train_timesteps": 1000, "shift": 2.5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_opensora(tmp_path_factory.mktemp("model") / "toy")


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LoadedModel:
    return load_model(ModelRequest(str(folder), size=("16x16",), frames=2, fps=8.0))


@torch.no_grad()
def released_loop(folder: Path, noise: Tensor, texts: Tensor, mask: Tensor) -> Tensor:
    """Open-Sora's RFLOW.sample: half of the rows have the learned text and the mask of the other half."""
    model = STDiT3.from_pretrained(folder / "transformer", low_cpu_mem_usage=False).eval()
    nothing = load_file(folder / "transformer/diffusion_pytorch_model.safetensors")["y_embedder.y_embedding"]
    shift = (16 * 16 / 512**2) ** 0.5 * 2**0.5
    even = [1 - i / STEPS for i in range(STEPS)]
    times = [1000 * shift * t / (1 + (shift - 1) * t) for t in even]
    texts = torch.cat([texts, nothing.expand(len(texts), -1, -1)])
    z = noise
    for t, after in zip(times, [*times[1:], 0.0], strict=True):
        velocity = model(
            torch.cat([z, z]), torch.full((2 * len(z),), t), texts, mask.repeat(2, 1), fps=8.0, height=16.0, width=16.0
        ).sample.chunk(2, dim=1)[0]
        positive, negative = velocity.chunk(2)
        z = z + (negative + GUIDANCE * (positive - negative)) * (t - after) / 1000
    return z


def test_a_bundle_that_computes_everything_makes_what_the_releases_loop_makes(
    folder: Path, loaded: LoadedModel, tmp_path: Path
) -> None:
    sampler, guidance = defaults_for(loaded)
    assert (sampler.name, sampler.steps, guidance) == ("rflow", 30, GUIDANCE)
    bench = Workbench(loaded, SamplerOptions("rflow", STEPS, 0.0, GUIDANCE), StageStore(tmp_path), lambda *_: None)
    plan = bench.plan_of(Schedule.full(loaded.spec, STEPS), "everything")
    bundle = bench.build(plan, "ort", tmp_path / "bundle", BundleOptions(without=("decoder",))).out
    noise = torch.randn(2, *loaded.spec.latent_shape, generator=torch.Generator().manual_seed(0))
    embeds = random_texts(loaded.spec, 2, seed=1).positive["embeds"]
    mask = (torch.arange(8) < torch.tensor(LENGTHS)[:, None]).long()
    ignored = {"embeds": np.ones((1, 8, 16), np.float32), "attention_mask": np.ones((1, 8), np.int64)}
    with Session.open(bundle) as session:
        found = session.generate(
            inputs={"embeds": embeds.numpy(), "attention_mask": mask.numpy()}, negative_inputs=ignored,
            noise=Noise(noise.numpy()),
        )  # fmt: skip
    expected = released_loop(folder, noise, embeds, mask).numpy()
    assert np.abs(found - expected).max() / np.abs(expected).max() <= 1e-4
    assert np.abs(found - noise.numpy()).max() > 0.1


def test_a_layer_has_six_sites_of_which_four_take_some_tokens(loaded: LoadedModel) -> None:
    names = ("spatial_blocks.{}.attn", "spatial_blocks.{}.cross_attn", "spatial_blocks.{}.mlp")
    layer = [*names, *(name.replace("spatial", "temporal") for name in names)]
    sites = loaded.spec.sites
    assert [site.name for site in sites] == [*(n.format(i) for i in range(2) for n in layer), "temporal_blocks.1"]
    assert [site.kind for site in sites[:6]] == ["s_attn", "s_cross", "s_ff", "t_attn", "t_cross", "t_ff"]
    assert [site.tokens for site in sites[:6]] == [0, 32, 32, 0, 32, 32]


def test_frames_follow_the_autoencoder(folder: Path) -> None:
    published = ModelRequest("opensora", random_weights=0)
    assert load_model(published).spec.latent_shape == (4, 15, 60, 106)
    assert load_model(published).scheduler_config["shift"] == pytest.approx(4.84, abs=5e-3)
    assert load_model(ModelRequest("opensora", random_weights=0, frames=1)).spec.latent_shape[1] == 1
    with pytest.raises(ModelError, match="--frames 18: the autoencoder makes 1, or a multiple of 17"):
        load_model(ModelRequest("opensora", random_weights=0, frames=18))
    assert load_model(ModelRequest(str(folder), size=("16x16",), frames=18)).spec.latent_shape[1] == 18  # one by one


def test_rflow_ends_where_its_velocities_lead() -> None:
    table = freeze_sampler("rflow", CONFIG, 5)
    assert (table.state_size, table.stochastic) == (1, False)
    assert table.timesteps[0] == 1000
    even = np.arange(5, 0, -1) / 5
    np.testing.assert_allclose(table.timesteps, 1000 * 2.5 * even / (1 + 1.5 * even), rtol=1e-12)
    clean, noise = torch.randn(2, 1, 4, 2, 3, 3, generator=torch.Generator().manual_seed(0)).unbind(0)
    state = table.begin(noise)
    for step in range(5):
        t = table.timesteps[step] / 1000
        torch.testing.assert_close(table.model_input(step, state), (1 - t) * clean + t * noise)
        state = table.advance(step, state, clean - noise, None)
    torch.testing.assert_close(state[0], clean)


def test_rflows_levels_tell_the_clean_sample() -> None:
    levels = levels_of(freeze_sampler("rflow", CONFIG, 5), CONFIG, "test")
    clean, noise = 0.7, -1.9
    for step in range(5):
        x, velocity = levels.alpha[step] * clean + levels.sigma[step] * noise, clean - noise
        shares = clean_sample(levels, step)
        assert shares is not None
        of_x, of_velocity = shares
        assert of_x * x + of_velocity * velocity == pytest.approx(clean, abs=1e-5)


@pytest.mark.parametrize(
    ("sampler", "config", "message"),
    [
        ("ddim", CONFIG, "'RFlowScheduler' has no schedule that ddim could follow"),
        ("rflow", {"_class_name": "DDIMScheduler", "clip_sample": False}, "'DDIMScheduler' has no schedule that rflow"),
        ("rflow", {**CONFIG, "shift": -1.0}, "shift=-1.0 must be above 0"),
    ],
)
def test_other_samplers_are_refused(sampler: str, config: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        freeze_sampler(sampler, config, 5)
