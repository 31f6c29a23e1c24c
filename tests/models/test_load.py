"""Where a model comes from: names, local weights, random weights, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiTTransformer2DModel, DPMSolverMultistepScheduler, PixArtTransformer2DModel
from torch import Tensor, nn

from soda_export.errors import ModelError
from soda_export.models import published
from soda_export.models.architecture import build_empty, fill_random
from soda_export.models.load import ModelRequest, load_denoiser
from soda_export.models.published import published_models, read_published
from tests.tiny import save_tiny_model

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


def tensors(model: Any) -> dict[str, Tensor]:
    return dict(model.state_dict())


@pytest.mark.parametrize("name", published_models())
def test_published_configurations_build_the_models_of_the_papers(name: str) -> None:
    known = read_published(name)
    with torch.device("meta"):
        model = build_empty(known["transformer"]["_class_name"], published.published_path(name), known["transformer"])
    weights = sum(p.numel() for p in model.parameters())
    assert 600e6 < weights < 620e6 if name.startswith("pixart") else 670e6 < weights < 790e6
    assert {"repository", "pipeline", "scheduler", "vae"} <= known.keys()
    assert ("text_encoder" in known) == name.startswith("pixart")


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

    first, second, third = Two(["a", "b"]), Two(["b", "a"]), Two(["a", "b"])
    fill_random(first, 7)
    fill_random(second, 7)
    fill_random(third, 8)
    for name, tensor in tensors(first).items():
        assert torch.equal(tensor, tensors(second)[name])
        assert not torch.equal(tensor, tensors(third)[name])
    assert first.scale.weight.data.mean() == pytest.approx(1.0, abs=0.02)
    assert first.a.bias.data.abs().min() > 0


def test_random_weights_of_a_published_model(alias: str) -> None:
    loaded = load_denoiser(ModelRequest(alias, random_weights=3))
    spec = loaded.denoiser.spec
    assert (spec.name, spec.family, spec.output) == ("tiny-alias-random3", "pixart", "latents")
    assert spec.condition.max_tokens == 300
    assert loaded.scheduler_config == {"beta_end": 0.02}
    assert (loaded.folder, loaded.component_folder("vae")) == (None, None)
    assert loaded.component_config("vae") == {"scaling_factor": 0.13025}
    assert loaded.component_config("text_encoder") is None
    assert spec.hash == load_denoiser(ModelRequest("owner/tiny", random_weights=3)).denoiser.spec.hash
    assert spec.hash != load_denoiser(ModelRequest(alias, random_weights=4)).denoiser.spec.hash


def test_random_weights_of_a_folder_need_its_configurations_alone(tmp_path: Path, tiny_model: Path) -> None:
    folder = tmp_path / "bare"
    shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    spec = load_denoiser(ModelRequest(str(folder), random_weights=0)).denoiser.spec
    assert (spec.name, spec.num_layers) == ("bare-random0", 3)
    assert load_denoiser(ModelRequest("digits", random_weights=0)).denoiser.spec.family == "dit"
    (folder / "scheduler/scheduler_config.json").unlink()
    with pytest.raises(ModelError, match=r"scheduler_config\.json: cannot be read; random weights need"):
        load_denoiser(ModelRequest(str(folder), random_weights=0))


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
    assert load_denoiser(str(folder)).denoiser.spec.condition.max_tokens == tokens


def test_older_repositories_name_the_class_by_its_norm_and_carry_settings_without_effect(tmp_path: Path) -> None:
    folder = save_tiny_pixart(tmp_path / "model")
    path = folder / "transformer/config.json"
    old = {"_class_name": "Transformer2DModel", "num_vector_embeds": None, "only_cross_attention": False}
    path.write_text(json.dumps(json.loads(path.read_text()) | old))
    assert load_denoiser(str(folder)).denoiser.spec.family == "pixart"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"only_cross_attention": True}))
    with pytest.raises(ModelError, match="'only_cross_attention' is no setting of PixArtTransformer2DModel"):
        load_denoiser(str(folder))


def test_local_weights_take_the_place_of_the_hub(tmp_path: Path, alias: str) -> None:
    folder = save_tiny_pixart(tmp_path / "local")
    loaded = load_denoiser(ModelRequest(alias, weights=folder))
    assert (loaded.denoiser.spec.name, loaded.folder) == (alias, folder)
    assert loaded.scheduler_config["_class_name"] == "DPMSolverMultistepScheduler"
    assert loaded.component_folder("transformer") == folder / "transformer"
    assert loaded.component_config("scheduler") == loaded.scheduler_config
    assert loaded.component_config("vae") == {"scaling_factor": 0.13025}


def test_a_bare_transformer_takes_its_scheduler_from_the_published_model(tmp_path: Path, alias: str) -> None:
    bare = save_tiny_pixart(tmp_path / "local") / "transformer"
    loaded = load_denoiser(ModelRequest(alias, weights=bare))
    assert loaded.scheduler_config == {"beta_end": 0.02}
    assert loaded.denoiser.spec.condition.max_tokens == 300
    with pytest.raises(ModelError, match="for a bare transformer say whose it is: --model ALIAS --weights DIR"):
        load_denoiser(str(bare))


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
        load_denoiser(ModelRequest(alias, weights=folder))


def test_weights_of_another_class_are_refused(tmp_path: Path, alias: str) -> None:
    folder = save_tiny_model(tmp_path / "dit")
    with pytest.raises(ModelError, match="_class_name=DiTTransformer2DModel, but --model tiny-alias has PixArt"):
        load_denoiser(ModelRequest(alias, weights=folder))


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
        load_denoiser(request_)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("value", ["soon", -1, None])
def test_a_tokenizer_without_a_length_is_refused(tmp_path: Path, value: object) -> None:
    folder = save_tiny_pixart(tmp_path / "model")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer/tokenizer_config.json").write_text(json.dumps({"model_max_length": value}))
    with pytest.raises(ModelError, match=r"tokenizer_config\.json: model_max_length="):
        load_denoiser(str(folder))


def test_a_configuration_that_diffusers_cannot_build_is_one_line(tmp_path: Path, tiny_model: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    path = folder / "transformer/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_layers": "three"}))
    with pytest.raises(ModelError, match=r"config\.json: diffusers cannot build DiTTransformer2DModel") as refused:
        load_denoiser(str(folder))
    assert "\n" not in str(refused.value)
