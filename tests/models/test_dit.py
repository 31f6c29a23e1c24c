"""The DiT family at the Denoiser seam, and the loading of folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DiTTransformer2DModel

from soda_export.errors import ModelError
from soda_export.models.denoiser import Prepared, call_denoiser, label_rows
from soda_export.models.flops import full_step_flops
from soda_export.models.load import load_denoiser
from soda_export.models.spec import DenoiserSpec, LabelCondition
from tests.tiny import save_tiny_model


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"out_channels": 2},
        {"attention_bias": False, "patch_size": 1, "sample_size": 4},
        {"activation_fn": "gelu", "in_channels": 3, "out_channels": 3},
    ],
)
@torch.no_grad()
def test_the_seam_computes_what_diffusers_computes(tmp_path: Path, config: dict[str, object]) -> None:
    folder = save_tiny_model(tmp_path / "model", **config)
    denoiser = load_denoiser(str(folder)).denoiser
    model = DiTTransformer2DModel.from_pretrained(folder / "transformer").eval()
    latents, labels, timestep = torch.randn(3, *denoiser.spec.latent_shape), torch.tensor([0, 9, 10]), 481
    expected = model(latents, torch.full((3,), timestep), labels).sample
    assert expected.shape[1] == denoiser.spec.out_channels
    conditioning = Prepared(denoiser, (timestep,), label_rows(labels, denoiser.spec, rows=1)).conditioning(0)
    found, _ = call_denoiser(
        denoiser, latents, conditioning, lambda layer, name, inputs: denoiser.module(layer, name)(inputs())
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["attn", "ff"])
def test_kept_tokens_get_what_the_whole_module_gives_them(tiny_model: Path, name: str) -> None:
    module = load_denoiser(str(tiny_model)).denoiser.module(1, name)
    inputs, tokens = torch.randn(2, 16, 16), torch.tensor([3, 0, 11])
    torch.testing.assert_close(module.kept(inputs, inputs[:, tokens]), module(inputs)[:, tokens], rtol=1e-5, atol=1e-5)


def test_flops_of_dit_xl_2_follow_the_papers_convention() -> None:
    spec = DenoiserSpec(
        name="dit-xl-2-256", family="dit", hash="", num_layers=28, modules=("attn", "ff"), num_tokens=256, width=1152,
        num_heads=16, ff_width=4608, latent_shape=(4, 32, 32), out_channels=8,
        condition=LabelCondition(num_classes=1000, null_class=1000), output="latents",
    )  # fmt: skip
    assert full_step_flops(spec, rows=2) == pytest.approx(0.474706e12, rel=1e-5)


def _broken(tmp_path: Path, tiny_model: Path, file: str, **changes: object) -> Path:
    folder = tmp_path / "broken"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**config, **changes}))
    return folder


def test_other_architectures_are_refused_by_name(tmp_path: Path, tiny_model: Path) -> None:
    folder = _broken(tmp_path, tiny_model, "transformer/config.json", _class_name="FluxTransformer2DModel")
    with pytest.raises(ModelError, match="'FluxTransformer2DModel' is not supported; supported: DiTTransformer2DModel"):
        load_denoiser(str(folder))


def test_an_activation_that_the_family_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="activation_fn='geglu'"):
        load_denoiser(str(save_tiny_model(tmp_path / "model", activation_fn="geglu")))


def test_a_checkpoint_with_missing_keys_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "broken"
    shutil.copytree(tiny_model, folder)
    weights = folder / "transformer/diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    del tensors["transformer_blocks.1.attn1.to_q.weight"]
    save_file(tensors, weights)
    with pytest.raises(ModelError, match=r"transformer_blocks\.1\.attn1\.to_q\.weight"):
        load_denoiser(str(folder))


@pytest.mark.parametrize("missing", ["transformer/config.json", "scheduler/scheduler_config.json"])
def test_an_incomplete_folder_names_the_file(tmp_path: Path, tiny_model: Path, missing: str) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(tiny_model, folder)
    (folder / missing).unlink()
    with pytest.raises(ModelError, match=missing):
        load_denoiser(str(folder))


def test_pickled_weights_are_refused(tmp_path: Path, tiny_model: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(tiny_model, folder)
    weights = folder / "transformer/diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ModelError, match=r"no \.safetensors"):
        load_denoiser(str(folder))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"sample_size": 9}, "multiple"),
        ({"in_channels": 4, "out_channels": 2}, "out_channels=2 is less"),
        ({"norm_elementwise_affine": True}, "norm_elementwise_affine"),
    ],
)
def test_geometry_that_the_family_lacks_is_refused(tmp_path: Path, config: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_denoiser(str(save_tiny_model(tmp_path / "model", **config)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qk_norm": "rms_norm"}, "'qk_norm' is no setting"),
        ({"attention_bias": False}, "no place for"),
        ({"num_layers": 2}, "no place for"),
        ({"_class_name": ["x"]}, "not supported"),
    ],
)
def test_a_configuration_that_would_give_another_model_is_refused(
    tmp_path: Path, tiny_model: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        load_denoiser(str(_broken(tmp_path, tiny_model, "transformer/config.json", **changes)))
