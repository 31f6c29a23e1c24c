"""Where a model comes from: names, local weights, random weights, and what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiTTransformer2DModel, DPMSolverMultistepScheduler, PixArtTransformer2DModel
from torch import nn

from soda_export.errors import ModelError
from soda_export.models import published
from soda_export.models.architecture import architecture_class, build_empty
from soda_export.models.families import FAMILIES
from soda_export.models.load import ModelRequest, load_model
from soda_export.models.published import published_models, read_published
from soda_export.models.weights import RandomWeights
from tests.tiny_models import save_tiny_flux, save_tiny_model, save_tiny_musicldm

PIXART = {
    "num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "out_channels": 8, "num_layers": 2,
    "cross_attention_dim": 16, "sample_size": 8, "caption_channels": 12,
}  # fmt: skip


def save_tiny_pixart(folder: Path, pipeline: str = "PixArtAlphaPipeline", **config: object) -> Path:
    torch.manual_seed(0)
    PixArtTransformer2DModel(**{**PIXART, **config}).save_pretrained(folder / "transformer")
    DPMSolverMultistepScheduler().save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    return folder


@pytest.fixture
def alias(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A published model small enough to build: tiny-alias, a PixArt-Sigma with a VAE."""
    folder = tmp_path / "published"
    folder.mkdir()
    model = {
        "repository": "owner/tiny", "pipeline": "PixArtSigmaPipeline", "scheduler": {"beta_end": 0.02},
        "transformer": {"_class_name": "PixArtTransformer2DModel", **PIXART}, "vae": {"scaling_factor": 0.13025},
    }  # fmt: skip
    (folder / "tiny-alias.json").write_text(json.dumps(model))
    monkeypatch.setattr(published, "PUBLISHED_FOLDER", folder)
    return "tiny-alias"


PARAMETERS = {
    "dit-xl-2-256": 675e6, "dit-xl-2-512": 675e6, "flux-dev": 11.90e9, "flux-schnell": 11.89e9, "pixart": 611e6,
    "pixart-256": 611e6, "pixart-1024": 611e6, "pixart-sigma": 611e6, "sd3-medium": 2.03e9, "sd3.5-medium": 2.24e9,
    "sd3.5-large": 8.06e9, "sd-1.5": 859.5e6, "sd-2.1": 865.9e6, "sdxl": 2.5675e9, "sdxl-turbo": 2.5675e9,
    "musicldm": 185.0e6, "opensora": 1.2089e9, "wan-1.3b": 1.42e9, "wan-14b": 14.29e9,
}  # fmt: skip


@pytest.mark.parametrize("name", published_models())
def test_published_configurations_build_the_models_of_the_papers(name: str) -> None:
    known = read_published(name)
    config = published.denoiser_config(known)
    assert config is not None
    path = published.published_path(name)
    with torch.device("meta"):
        model = build_empty(architecture_class(path, config, list(FAMILIES)), path, config)
    weights = sum(p.numel() for p in model.parameters())
    assert weights == pytest.approx(PARAMETERS[name], rel=0.15 if name.startswith("dit") else 0.01)
    assert {"repository", "pipeline", "scheduler", "vae"} <= known.keys()
    assert ("text_encoder" in known) == (not name.startswith("dit"))


@pytest.mark.parametrize(("kind", "config"), [("DiTTransformer2DModel", {}), ("PixArtTransformer2DModel", PIXART)])
def test_an_empty_model_has_the_buffers_and_shapes_of_a_normal_one(
    tmp_path: Path, kind: str, config: dict[str, Any]
) -> None:
    config = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "sample_size": 8} | config
    normal = {"DiTTransformer2DModel": DiTTransformer2DModel, "PixArtTransformer2DModel": PixArtTransformer2DModel}
    expected, found = normal[kind](**config), build_empty(kind, tmp_path, config)
    assert {n: p.shape for n, p in found.named_parameters()} == {n: p.shape for n, p in expected.named_parameters()}
    buffers = dict(expected.named_buffers())
    assert buffers
    for name, buffer in found.named_buffers():
        torch.testing.assert_close(buffer, buffers[name], rtol=0, atol=0)


def test_building_a_model_leaves_the_random_state_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    build_empty("PixArtTransformer2DModel", tmp_path, PIXART)
    assert torch.equal(before, torch.get_rng_state())


def test_random_weights_depend_on_the_seed_and_the_name_alone() -> None:
    class Two(nn.Module):
        def __init__(self, names: list[str]) -> None:
            super().__init__()
            for name in names:
                self.add_module(name, nn.Linear(3, 4))
            self.scale = nn.LayerNorm(64)

    first, second, third = (
        RandomWeights(Two(names), seed) for names, seed in ((["a", "b"], 7), (["b", "a"], 7), (["a", "b"], 8))
    )
    for name in first.names:
        assert torch.equal(first.read(name), second.read(name))
        assert not torch.equal(first.read(name), third.read(name))
        assert first.spec(name) == (tuple(first.read(name).shape), torch.float32)
    assert first.read("scale.weight").mean() == pytest.approx(1.0, abs=0.02)
    assert first.read("a.bias").abs().min() > 0


def test_random_weights_stay_what_they_were(tiny_model: Path) -> None:
    """A map made with random weights is worth keeping."""
    weights = load_model(ModelRequest(str(tiny_model), random_weights=5)).weights
    start = int.from_bytes(hashlib.sha256(b"5 transformer_blocks.0.attn1.to_q.weight").digest()[:8], "big", signed=True)
    expected = torch.empty(16, 16).normal_(0.0, 0.02, generator=torch.Generator().manual_seed(start))
    assert torch.equal(weights.read("transformer_blocks.0.attn1.to_q.weight"), expected)


def test_random_weights_of_a_published_model(alias: str) -> None:
    loaded = load_model(ModelRequest(alias, random_weights=3))
    spec = loaded.spec
    assert (spec.name, spec.family, spec.output) == ("tiny-alias-random3", "pixart", "latents")
    assert spec.ports[0].shape[0] == 300
    assert loaded.scheduler_config == {"beta_end": 0.02}
    assert (loaded.folder, loaded.component_folder("vae")) == (None, None)
    assert loaded.component_config("vae") == {"scaling_factor": 0.13025}
    assert loaded.component_config("text_encoder") is None
    assert spec.hash == load_model(ModelRequest("owner/tiny", random_weights=3)).spec.hash
    assert spec.hash != load_model(ModelRequest(alias, random_weights=4)).spec.hash


def test_random_weights_of_a_folder_need_its_configurations_alone(tmp_path: Path, tiny_model: Path) -> None:
    folder = tmp_path / "bare"
    shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    spec = load_model(ModelRequest(str(folder), random_weights=0)).spec
    assert (spec.name, len(spec.sites)) == ("bare-random0", 7)
    assert load_model(ModelRequest("digits", random_weights=0)).spec.family == "dit"
    (folder / "scheduler/scheduler_config.json").unlink()
    with pytest.raises(ModelError, match=r"scheduler_config\.json: cannot be read; random weights need"):
        load_model(ModelRequest(str(folder), random_weights=0))


@pytest.mark.parametrize(
    ("pipeline", "longest", "tokens"),
    [("PixArtAlphaPipeline", None, 120), ("PixArtSigmaPipeline", None, 300), ("PixArtSigmaPipeline", 77, 77)],
)
def test_captions_are_as_long_as_the_pipeline_and_its_tokenizer_say(
    tmp_path: Path, pipeline: str, longest: int | None, tokens: int
) -> None:
    folder = save_tiny_pixart(tmp_path / "model", pipeline)
    if longest is not None:
        (folder / "tokenizer").mkdir()
        (folder / "tokenizer/tokenizer_config.json").write_text(json.dumps({"model_max_length": longest}))
    assert load_model(str(folder)).spec.ports[0].shape[0] == tokens


def test_older_repositories_name_the_class_by_its_norm_and_carry_settings_without_effect(tmp_path: Path) -> None:
    folder = save_tiny_pixart(tmp_path / "model")
    path = folder / "transformer/config.json"
    old = {"_class_name": "Transformer2DModel", "num_vector_embeds": None, "only_cross_attention": False}
    path.write_text(json.dumps(json.loads(path.read_text()) | old))
    assert load_model(str(folder)).spec.family == "pixart"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"only_cross_attention": True}))
    with pytest.raises(ModelError, match="'only_cross_attention' is no setting of PixArtTransformer2DModel"):
        load_model(str(folder))


def test_local_weights_take_the_place_of_the_hub(tmp_path: Path, alias: str) -> None:
    folder = save_tiny_pixart(tmp_path / "local")
    loaded = load_model(ModelRequest(alias, weights=folder))
    assert (loaded.spec.name, loaded.folder) == (alias, folder)
    assert loaded.scheduler_config["_class_name"] == "DPMSolverMultistepScheduler"
    assert loaded.component_folder("transformer") == folder / "transformer"
    assert loaded.component_config("scheduler") == loaded.scheduler_config
    assert loaded.component_config("vae") == {"scaling_factor": 0.13025}


def test_a_bare_transformer_takes_its_scheduler_from_the_published_model(tmp_path: Path, alias: str) -> None:
    bare = save_tiny_pixart(tmp_path / "local") / "transformer"
    loaded = load_model(ModelRequest(alias, weights=bare))
    assert loaded.scheduler_config == {"beta_end": 0.02}
    assert loaded.spec.ports[0].shape[0] == 300
    with pytest.raises(ModelError, match="for a bare denoiser say whose it is: --model ALIAS --weights DIR"):
        load_model(str(bare))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 1}, "num_layers=1, but --model tiny-alias has num_layers=2"),
        ({"sample_size": 16}, "sample_size=16, but --model tiny-alias has sample_size=8"),
        ({"attention_head_dim": 16, "cross_attention_dim": 32}, "attention_head_dim=16, but --model tiny-alias has"),
    ],
)
def test_weights_of_another_model_are_refused(
    tmp_path: Path, alias: str, changes: dict[str, object], message: str
) -> None:
    folder = save_tiny_pixart(tmp_path / "local", **changes)
    with pytest.raises(ModelError, match=message):
        load_model(ModelRequest(alias, weights=folder))


def test_weights_of_another_class_are_refused(tmp_path: Path, alias: str) -> None:
    folder = save_tiny_model(tmp_path / "dit")
    with pytest.raises(ModelError, match="_class_name=DiTTransformer2DModel, but --model tiny-alias has PixArt"):
        load_model(ModelRequest(alias, weights=folder))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (ModelRequest("nope"), "--model nope: neither a built-in model"),
        (ModelRequest("digits", weights=Path("nowhere")), "--weights nowhere: no such folder"),
        (ModelRequest("digits", weights=Path(), random_weights=0), "--weights and --random-weights"),
        (ModelRequest("digits", revision="v1"), "--revision v1: only what comes from the hub"),
        (ModelRequest("pixart", weights=Path(), revision="v1"), "--revision v1: only what comes from the hub"),
    ],
)
def test_requests_that_contradict_themselves_are_refused(request_: ModelRequest, message: str) -> None:
    with pytest.raises(ModelError, match=message) as refused:
        load_model(request_)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("value", ["soon", -1, None])
def test_a_tokenizer_without_a_length_is_refused(tmp_path: Path, value: object) -> None:
    folder = save_tiny_pixart(tmp_path / "model")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer/tokenizer_config.json").write_text(json.dumps({"model_max_length": value}))
    with pytest.raises(ModelError, match=r"tokenizer_config\.json: model_max_length="):
        load_model(str(folder))


def test_a_configuration_that_diffusers_cannot_build_is_one_line(tmp_path: Path, tiny_model: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    path = folder / "transformer/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"activation_fn": "cube"}))
    with pytest.raises(ModelError, match=r"config\.json: diffusers cannot build DiTTransformer2DModel") as refused:
        load_model(str(folder))
    assert "\n" not in str(refused.value)


def test_an_image_may_have_another_size_where_the_family_allows_it(tmp_path: Path, tiny_model: Path) -> None:
    folder = str(save_tiny_flux(tmp_path / "model"))
    small, large = (load_model(ModelRequest(folder, image_size=side)).spec for side in (16, 24))
    assert (small.latent_shape, large.latent_shape) == ((16, 16), (36, 16))
    assert small.hash != large.hash  # another size is another plan
    assert load_model(ModelRequest(folder, size=("24x24",))).spec.latent_shape == large.latent_shape
    for request, message in (
        (ModelRequest(folder, image_size=18), "--image-size 18: must be a multiple of 4 pixels"),
        (ModelRequest(folder, image_size=-4), "--image-size -4: must be"),
        (ModelRequest(str(tiny_model), image_size=16), "--image-size 16: a dit model has the one size"),
        (ModelRequest(folder, size=("16x24", "8x8")), "--size 16x24 8x8: give one size here"),
        (ModelRequest(folder, size=("16",)), "--size 16: give height x width"),
        (ModelRequest(folder, size=("16x16",), image_size=16), "give one of them"),
        (ModelRequest(folder, frames=5), "--frames 5: a flux model makes no clips"),
        (ModelRequest(folder, fps=8.0), "--fps 8: a flux model makes no clips"),
        (ModelRequest(folder, seconds=8.0), "--seconds 8: a flux model makes no sounds"),
    ):
        with pytest.raises(ModelError, match=message):
            load_model(request)


def test_a_sound_may_have_another_length(tmp_path: Path) -> None:
    folder = str(save_tiny_musicldm(tmp_path / "model"))
    own, short = load_model(folder).spec, load_model(ModelRequest(folder, seconds=0.07)).spec
    assert (own.latent_shape, short.latent_shape) == ((4, 8, 4), (4, 4, 4))
    assert own.hash != short.hash
    for request, message in (
        (ModelRequest(folder, seconds=0.01), r"--seconds 0\.01: a latent lasts 0\.016"),
        (ModelRequest(folder, seconds=-1.0), "--seconds -1: must be above 0"),
        (ModelRequest(folder, seconds=float("nan")), "--seconds nan: must be above 0"),
        (ModelRequest(folder, image_size=16), "--image-size 16: a sound has a length; give --seconds"),
        (ModelRequest(folder, frames=2), "--frames 2: a unet model makes no clips"),
    ):
        with pytest.raises(ModelError, match=message):
            load_model(request)


def test_the_shift_of_a_flow_is_that_of_the_images_size(tmp_path: Path) -> None:
    folder = str(save_tiny_flux(tmp_path / "model"))
    config = load_model(ModelRequest(folder, image_size=32)).scheduler_config
    assert config["mu"] == pytest.approx(0.5 + (64 - 256) * 0.65 / 3840)
    assert config["uniform_sigmas"] is True
    assert config["use_dynamic_shifting"] is True


def test_a_built_in_model_has_its_size_with_random_weights_too() -> None:
    stored, random = (load_model(ModelRequest("shapes-flux", random_weights=seed)).spec for seed in (None, 0))
    assert random.latent_shape == stored.latent_shape == (64, 16)
