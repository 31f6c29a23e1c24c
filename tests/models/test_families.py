"""Families: the module that is loaded, called as the record says, is diffusers' own; what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from soda_export.errors import ModelError
from soda_export.models.arguments import forward_arguments
from soda_export.models.load import LoadedModel, ModelRequest, load_model
from soda_export.models.published import denoiser_folder
from tests.tiny_models import (
    UNETS,
    save_tiny_flux,
    save_tiny_model,
    save_tiny_musicldm,
    save_tiny_opensora,
    save_tiny_pixart,
    save_tiny_sana,
    save_tiny_sd3,
    save_tiny_unet,
    save_tiny_wan,
)

Save = Callable[..., Path]


def save_plain_pixart(folder: Path, **config: object) -> Path:
    """Without the rest of the pipeline."""
    return save_tiny_pixart(folder, vae=False, text=False, **config)


def plain(folder: Path, loaded: LoadedModel) -> Any:
    """diffusers' own model of the folder."""
    return getattr(diffusers, loaded.kind).from_pretrained(denoiser_folder(folder), low_cpu_mem_usage=False).eval()


def random_inputs(loaded: LoadedModel, rows: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Latents, and what each port is given."""
    generator = torch.Generator().manual_seed(0)
    made = {}
    for port in loaded.spec.ports:
        shape = (rows, *port.shape)
        if port.kind == "label":
            made[port.name] = torch.arange(rows) * port.null_class // max(1, rows - 1)
        elif port.kind == "mask":
            made[port.name] = (torch.arange(port.shape[0]) < 1 + 7 * torch.arange(rows)[:, None]).long()
        else:
            made[port.name] = torch.randn(shape, generator=generator)
    return torch.randn(rows, *loaded.spec.latent_shape, generator=generator), made


@torch.no_grad()
def predict(loaded: LoadedModel, latents: Tensor, timestep: float, inputs: dict[str, Tensor]) -> Tensor:
    """The loaded module, called as the family's record says."""
    times = torch.full((len(latents),), timestep)
    arguments = forward_arguments(loaded.family, latents, times, inputs, loaded.constants)
    output: Tensor = loaded.module(**arguments, return_dict=False)[0]
    assert tuple(output.shape[1:]) == loaded.spec.prediction_shape
    return output


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"out_channels": 2},
        {"attention_bias": False, "patch_size": 1, "sample_size": 4},
        {"activation_fn": "geglu", "in_channels": 3, "out_channels": 3, "norm_elementwise_affine": True},
    ],
)
@torch.no_grad()
def test_a_dit_is_called_as_its_pipeline_does(tmp_path: Path, config: dict[str, object]) -> None:
    folder = save_tiny_model(tmp_path / "model", **config)
    loaded = load_model(str(folder))
    latents, inputs = random_inputs(loaded, 3)
    expected = plain(folder, loaded)(latents, torch.full((3,), 481), inputs["labels"]).sample
    torch.testing.assert_close(predict(loaded, latents, 481, inputs), expected, rtol=1e-6, atol=1e-6)
    assert inputs["labels"].tolist() == [0, 5, 10]
    assert loaded.spec.output == "pixels"


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"use_additional_conditions": True},
        {"patch_size": 1, "sample_size": 4, "use_additional_conditions": True},
        {"out_channels": 4, "attention_bias": False, "activation_fn": "gelu", "interpolation_scale": 2},
        {"caption_channels": None},
    ],
)
@torch.no_grad()
def test_a_pixart_is_called_as_its_pipeline_does(tmp_path: Path, config: dict[str, Any]) -> None:
    folder = save_plain_pixart(tmp_path / "model", **config)
    loaded = load_model(str(folder))
    latents, inputs = random_inputs(loaded, 3)
    side = float(8 * loaded.spec.latent_shape[1])
    size: dict[str, Any] = {"resolution": torch.full((3, 2), side), "aspect_ratio": torch.ones(3, 1)}
    expected = plain(folder, loaded)(
        latents, encoder_hidden_states=inputs["embeds"], encoder_attention_mask=inputs["attention_mask"],
        timestep=torch.full((3,), 903.6251), added_cond_kwargs=size,
    ).sample  # fmt: skip
    assert expected.std() > 0.05
    torch.testing.assert_close(predict(loaded, latents, 903.6251, inputs), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dev", [True, False])
@torch.no_grad()
def test_a_flux_is_called_as_its_pipeline_does(tmp_path: Path, dev: bool) -> None:
    folder = save_tiny_flux(tmp_path / "model", guidance_embeds=dev)
    loaded = load_model(ModelRequest(str(folder), image_size=16))
    latents, inputs = random_inputs(loaded, 2)
    scale = {"guidance": inputs["distilled_guidance"]} if dev else {}
    expected = plain(folder, loaded)(
        latents, encoder_hidden_states=inputs["embeds"], pooled_projections=inputs["pooled_embeds"],
        timestep=torch.full((2,), 750.0) / 1000, txt_ids=torch.zeros(512 if dev else 256, 3),
        img_ids=diffusers.FluxPipeline._prepare_latent_image_ids(1, 4, 4, "cpu", torch.float32), **scale,
    ).sample  # fmt: skip
    torch.testing.assert_close(predict(loaded, latents, 750.0, inputs), expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.01
    family = loaded.family
    assert (family.guidance, family.steps, family.default_guidance) == (("port", 28, 1) if dev else ("none", 4, 1))
    assert [port.default for port in loaded.spec.ports if port.kind == "scalar"] == ([3.5] if dev else [])
    assert load_model(str(folder)).spec.latent_shape == (64**2, 16)  # 128 latents a side, as its pipeline has them
    assert loaded.spec.output == "latents"  # packed, so they are no pixels where nothing decodes them


@pytest.mark.parametrize("config", [{}, {"dual_attention_layers": (), "qk_norm": None, "pos_embed_max_size": 12}])
@torch.no_grad()
def test_an_sd3_is_called_as_its_pipeline_does(tmp_path: Path, config: dict[str, object]) -> None:
    folder = save_tiny_sd3(tmp_path / "model", **config)
    loaded = load_model(str(folder))
    latents, inputs = random_inputs(loaded, 2)
    expected = plain(folder, loaded)(
        latents, encoder_hidden_states=inputs["embeds"], pooled_projections=inputs["pooled_embeds"],
        timestep=torch.full((2,), 750.0),
    ).sample  # fmt: skip
    torch.testing.assert_close(predict(loaded, latents, 750.0, inputs), expected, rtol=1e-5, atol=1e-5)
    assert loaded.family.default_guidance == (7.0 if config else 4.5)
    assert inputs["embeds"].shape[1:] == (77 + 256, 16)
    assert load_model(ModelRequest(str(folder), image_size=8)).spec.latent_shape == (4, 4, 4)


@pytest.mark.parametrize("kind", UNETS)
@torch.no_grad()
def test_a_unet_is_called_as_its_pipeline_does(tmp_path: Path, kind: str) -> None:
    folder = save_tiny_unet(tmp_path / "model", kind)
    loaded = load_model(str(folder))
    latents, inputs = random_inputs(loaded, 2)
    size = {"text_embeds": inputs.get("pooled_embeds"), "time_ids": torch.tensor([[16.0, 16, 0, 0, 16, 16]] * 2)}
    expected = plain(folder, loaded)(
        latents, torch.full((2,), 750.0), encoder_hidden_states=inputs["embeds"],
        added_cond_kwargs=size if kind == "sdxl" else None,
    ).sample  # fmt: skip
    torch.testing.assert_close(predict(loaded, latents, 750.0, inputs), expected, rtol=1e-5, atol=1e-5)
    assert loaded.family.default_guidance == (5.0 if kind == "sdxl" else 7.5)
    assert load_model(ModelRequest(str(folder), image_size=24)).spec.latent_shape == (4, 12, 12)
    with pytest.raises(ModelError, match="--image-size 18: must be a multiple of 4 pixels"):
        load_model(ModelRequest(str(folder), image_size=18))


@pytest.mark.parametrize("config", [{}, {"class_embeddings_concat": False, "sample_size": (7, 3)}])
@torch.no_grad()
def test_a_musicldm_is_called_as_its_pipeline_does(tmp_path: Path, config: dict[str, object]) -> None:
    folder = save_tiny_musicldm(tmp_path / "model", vocoder=not config, **config)
    loaded = load_model(str(folder))
    latents, inputs = random_inputs(loaded, 2)
    expected = plain(folder, loaded)(
        latents, torch.full((2,), 750.0), encoder_hidden_states=None, class_labels=inputs["embeds"]
    ).sample  # fmt: skip
    torch.testing.assert_close(predict(loaded, latents, 750.0, inputs), expected, rtol=1e-5, atol=1e-5)
    assert (loaded.family.steps, loaded.family.default_guidance) == (200, 2.0)
    assert loaded.spec.latent_shape == ((4, 7, 3) if config else (4, 8, 4))
    assert "cross_attn" not in loaded.spec.kinds  # both attentions of a block are to itself


@torch.no_grad()
def test_an_lcm_takes_its_guidance_as_its_pipeline_embeds_it(tmp_path: Path) -> None:
    folder = save_tiny_unet(tmp_path / "model", time_cond_proj_dim=8)
    loaded = load_model(str(folder))
    latents, inputs = random_inputs(loaded, 2)
    scales = inputs["distilled_guidance"]
    embedded = diffusers.LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, scales - 1, 8)
    expected = plain(folder, loaded)(
        latents, torch.full((2,), 750.0), encoder_hidden_states=inputs["embeds"], timestep_cond=embedded
    ).sample  # fmt: skip
    torch.testing.assert_close(predict(loaded, latents, 750.0, inputs), expected, rtol=1e-5, atol=1e-5)
    assert (loaded.family.guidance, loaded.family.steps) == ("port", 4)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"timestep_scale": 0.5, "qk_norm": "rms_norm_across_heads", "attention_bias": True},
        {"patch_size": 2, "sample_size": 8, "interpolation_scale": 2, "out_channels": 8},
    ],
)
@torch.no_grad()
def test_a_sana_is_called_as_its_pipeline_does(tmp_path: Path, config: dict[str, Any]) -> None:
    folder = save_tiny_sana(tmp_path / "model", **config)
    loaded = load_model(str(folder))
    latents, inputs = random_inputs(loaded, 3)
    expected = plain(folder, loaded)(
        latents, encoder_hidden_states=inputs["embeds"], encoder_attention_mask=inputs["attention_mask"],
        timestep=torch.full((3,), 750.0) * config.get("timestep_scale", 1.0),
    ).sample  # fmt: skip
    assert expected.std() > 0.05
    torch.testing.assert_close(predict(loaded, latents, 750.0, inputs), expected, rtol=1e-5, atol=1e-5)
    assert [site.tokens for site in loaded.spec.sites[:3]] == [16, 16, 0]  # its feed-forward convolves the image


@pytest.mark.parametrize(
    "save",
    [
        save_tiny_model, save_plain_pixart, save_tiny_flux, save_tiny_sd3, save_tiny_sana, save_tiny_opensora,
        save_tiny_unet, save_tiny_musicldm, save_tiny_wan,
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fake_has_the_form_of_the_module_and_the_values_of_its_buffers(
    tmp_path: Path, save: Save, dtype: torch.dtype
) -> None:
    loaded = load_model(str(save(tmp_path / "model")))
    fake, real = loaded.fake(dtype), loaded.build(dtype)
    form = [(name, tuple(tensor.shape), tensor.dtype) for name, tensor in real.state_dict().items()]
    assert [(name, tuple(t.shape), t.dtype) for name, t in fake.module.state_dict().items()] == form
    assert {dtype} == {tensor.dtype for tensor in real.parameters()}
    buffers = dict(real.named_buffers())
    assert fake.buffers.keys() == buffers.keys()
    assert all(torch.equal(value, buffers[name]) for name, value in fake.buffers.items())
    assert set(loaded.weights.names) == set(real.state_dict())
    for name in loaded.weights.names:
        assert torch.equal(loaded.weights.read(name).to(dtype), real.state_dict()[name])


def _broken(tmp_path: Path, tiny_model: Path, file: str, **changes: object) -> Path:
    folder = tmp_path / "broken"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**config, **changes}))
    return folder


def test_other_architectures_are_refused_by_name(tmp_path: Path, tiny_model: Path) -> None:
    folder = _broken(tmp_path, tiny_model, "transformer/config.json", _class_name="Lumina2Transformer2DModel")
    with pytest.raises(ModelError, match="'Lumina2Transformer2DModel' is not supported; supported: DiT"):
        load_model(str(folder))


def test_a_checkpoint_with_missing_keys_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "broken"
    shutil.copytree(tiny_model, folder)
    weights = folder / "transformer/diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    del tensors["transformer_blocks.1.attn1.to_q.weight"]
    save_file(tensors, weights)
    with pytest.raises(ModelError, match=r"transformer_blocks\.1\.attn1\.to_q\.weight"):
        load_model(str(folder))


@pytest.mark.parametrize("missing", ["transformer/config.json", "scheduler/scheduler_config.json"])
def test_an_incomplete_folder_names_the_file(tmp_path: Path, tiny_model: Path, missing: str) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(tiny_model, folder)
    (folder / missing).unlink()
    with pytest.raises(ModelError, match=missing):
        load_model(str(folder))


def test_pickled_weights_are_refused(tmp_path: Path, tiny_model: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(tiny_model, folder)
    weights = folder / "transformer/diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ModelError, match=r"no \.safetensors"):
        load_model(str(folder))


@pytest.mark.parametrize(
    ("save", "config", "message"),
    [
        (save_tiny_model, {"sample_size": 9}, "sample_size=9, patch_size=2: the first must be a multiple"),
        (save_tiny_model, {"in_channels": 4, "out_channels": 2}, "out_channels=2 is neither in_channels=4 nor"),
        (save_plain_pixart, {"out_channels": 5}, "out_channels=5 is neither in_channels=4 nor"),
        (save_plain_pixart, {"cross_attention_dim": 32}, "PixArtTransformer2DModel cannot be run"),
        (save_tiny_sd3, {"sample_size": 9}, "sample_size=9, patch_size=2: the first must be a multiple"),
        (save_tiny_sd3, {"pos_embed_max_size": 2}, "SD3Transformer2DModel cannot be run: Height"),
        (save_tiny_unet, {"in_channels": 8}, "in_channels=8, out_channels=4: beside the latents a UNet may take"),
        (save_tiny_unet, {"sample_size": (8, 4)}, r"sample_size=\[8, 4\]: one number is needed"),
        (save_tiny_unet, {"class_embed_type": "timestep"}, "class_embed_type='timestep' is not supported"),
        (save_tiny_musicldm, {"cross_attention_dim": 16}, r"cross_attention_dim=16: .* must be block_out_channels"),
        (save_tiny_musicldm, {"in_channels": 8}, "in_channels=8, out_channels=4: a UNet of sounds takes its latents"),
        (save_tiny_musicldm, {"vocoder": False}, "sample_size=8 says no number of mels"),
        (save_tiny_musicldm, {"num_class_embeds": 3}, "num_class_embeds=3 is not supported"),
        (save_tiny_sana, {"out_channels": 5}, "out_channels=5 is neither in_channels=4 nor"),
        (save_tiny_sana, {"guidance_embeds": True}, "guidance_embeds=true is SANA-Sprint"),
    ],
)
def test_geometry_that_cannot_be_run_is_refused(
    tmp_path: Path, save: Save, config: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelError, match=message) as refused:
        load_model(str(save(tmp_path / "model", **config)))
    assert "\n" not in str(refused.value)


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
        load_model(str(_broken(tmp_path, tiny_model, "transformer/config.json", **changes)))
