"""The exported decoder is diffusers' own, scaling and postprocessing included."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from safetensors.torch import load_file, save_file

from soda_export.errors import ModelError, UsageError
from soda_export.export.decoders import DECODER_NAME, DECODER_WEIGHTS_NAME, DecoderSource, open_decoder

SHAPE = (4, 4, 6)
CONFIG: dict[str, Any] = {
    "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "latent_channels": 4,
    "sample_size": 8, "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
}  # fmt: skip
WEIGHTS = "diffusion_pytorch_model.safetensors"


def _export(
    place: Path | dict[str, Any], out: Path, latent_shape: tuple[int, ...], seed: int | None = None
) -> tuple[int, ...]:
    """The shape of the picture that the exported decoder makes."""
    decoder = open_decoder(DecoderSource({"vae": place}, latent_shape, seed=seed))
    decoder.export(out)
    return decoder.finish.shape


def _load(place: Path | dict[str, Any], seed: int | None = None) -> Any:
    return open_decoder(DecoderSource({"vae": place}, SHAPE, seed=seed)).module()


def _save(folder: Path, **changes: object) -> Any:
    """A random AutoencoderKL in diffusers' format."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    vae = AutoencoderKL(**(CONFIG | changes)).eval()
    vae.save_pretrained(folder)
    return vae


def _save_dc(folder: Path) -> Any:
    """A random AutoencoderDC with both of its kinds of blocks."""
    from diffusers import AutoencoderDC

    torch.manual_seed(0)
    blocks: dict[str, Any] = {
        "block_types": ("ResBlock", "EfficientViTBlock"), "block_out_channels": (8, 16), "layers_per_block": (1, 1),
        "qkv_multiscales": ((), (5,)),
    }  # fmt: skip
    both = {f"{half}_{name}": value for half in ("encoder", "decoder") for name, value in blocks.items()}
    vae = AutoencoderDC(
        latent_channels=4, attention_head_dim=8, downsample_block_type="conv", upsample_block_type="interpolate",
        scaling_factor=0.4, **both,
    ).eval()  # fmt: skip
    vae.save_pretrained(folder)
    return vae


@torch.no_grad()
def _difference(out: Path, vae: Any, batch: int) -> float:
    """The largest difference from diffusers' pipeline, which shows images in 0..1."""
    from diffusers.image_processor import VaeImageProcessor

    latents = torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(batch))
    scaled = latents / vae.config.scaling_factor + (vae.config.get("shift_factor") or 0)
    expected = VaeImageProcessor().postprocess(vae.decode(scaled).sample, output_type="np").transpose(0, 3, 1, 2)
    session = ort.InferenceSession(out / DECODER_NAME, providers=["CPUExecutionProvider"])
    image = session.run(["image"], {"latents": latents.numpy()})[0]
    assert image.shape == expected.shape
    assert 0 <= image.min() < image.max() <= 1
    return float(np.abs(image - expected).max())


@pytest.mark.parametrize(
    "changes",
    [
        {"mid_block_add_attention": True},
        {"mid_block_add_attention": False, "use_post_quant_conv": False, "shift_factor": 0.3, "scaling_factor": 0.5},
    ],
    ids=["attention", "no attention"],
)
def test_the_decoder_is_that_of_diffusers_in_onnx_runtime(changes: dict[str, object], tmp_path: Path) -> None:
    vae = _save(tmp_path, **changes)
    assert _export(tmp_path, tmp_path, SHAPE) == (3, 8, 12)
    for batch in (1, 3):
        assert _difference(tmp_path, vae, batch) <= 1e-5
    written = load_file(tmp_path / DECODER_WEIGHTS_NAME)
    decoder = [name for name in vae.state_dict() if name.startswith(("decoder.", "post_quant_conv."))]
    assert sorted(name.removesuffix(".T") for name in written) == sorted(decoder)


def test_an_autoencoder_dc_is_decoded_as_diffusers_does(tmp_path: Path) -> None:
    vae = _save_dc(tmp_path)
    assert _export(tmp_path, tmp_path, SHAPE) == (3, 8, 12)
    for batch in (1, 3):
        assert _difference(tmp_path, vae, batch) <= 1e-5


def test_a_tiny_autoencoder_is_decoded_as_diffusers_does(tmp_path: Path) -> None:
    """TAESD's class: it clamps the latents, and has no scaling of its own."""
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    blocks = {f"{half}_block_out_channels": (8, 8) for half in ("encoder", "decoder")}
    vae = AutoencoderTiny(**blocks, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1)).eval()
    vae.save_pretrained(tmp_path)
    assert _export(tmp_path, tmp_path, SHAPE) == (3, 8, 12)
    for batch in (1, 3):
        assert _difference(tmp_path, vae, batch) <= 1e-5


@torch.no_grad()
def test_packed_latents_are_those_of_fluxs_pipeline(tmp_path: Path) -> None:
    from diffusers import FluxPipeline

    vae = _save(tmp_path, use_post_quant_conv=False, shift_factor=0.1, scaling_factor=0.4)
    assert _export(tmp_path, tmp_path, (9, 16)) == (3, 12, 12)
    for batch in (1, 2):
        latents = torch.randn(batch, 4, 6, 6, generator=torch.Generator().manual_seed(batch))
        packed = FluxPipeline._pack_latents(latents, batch, 4, 6, 6)
        expected = (vae.decode(latents / 0.4 + 0.1).sample / 2 + 0.5).clamp(0, 1)
        session = ort.InferenceSession(tmp_path / DECODER_NAME, providers=["CPUExecutionProvider"])
        image = session.run(["image"], {"latents": packed.numpy()})[0]
        np.testing.assert_allclose(image, expected, rtol=0, atol=1e-5)


def test_a_large_batch_is_decoded_like_its_rows(tmp_path: Path) -> None:
    """diffusers takes another way from 64 rows on, which differs in the layout of memory alone."""
    _save(tmp_path, mid_block_add_attention=False)
    _export(tmp_path, tmp_path, (4, 2, 2))
    session = ort.InferenceSession(tmp_path / DECODER_NAME, providers=["CPUExecutionProvider"])
    latents = np.random.default_rng(0).standard_normal((65, 4, 2, 2)).astype(np.float32)
    image = session.run(["image"], {"latents": latents})[0]
    alone = session.run(["image"], {"latents": latents[64:]})[0]
    np.testing.assert_allclose(image[64:], alone, rtol=0, atol=1e-5)


def test_weights_of_half_precision_are_decoded_in_fp32(tmp_path: Path) -> None:
    vae = _save(tmp_path).half()
    vae.save_pretrained(tmp_path)
    _export(tmp_path, tmp_path, SHAPE)
    assert {tensor.dtype for tensor in load_file(tmp_path / DECODER_WEIGHTS_NAME).values()} == {torch.float32}
    assert _difference(tmp_path, vae.float(), 1) <= 1e-5


def test_random_weights_depend_on_the_seed_alone() -> None:
    state = torch.random.get_rng_state()
    a, b, c = (_load(CONFIG, seed).state_dict()["decoder.conv_in.weight"] for seed in (7, 7, 8))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(torch.random.get_rng_state(), state)


def _edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        stored = load_file(folder / WEIGHTS)
        change(stored)
        save_file(stored, folder / WEIGHTS)

    return edit


def _configure(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_edit(lambda stored: stored.pop("decoder.conv_in.weight")), r"the weights lack 'decoder\.conv_in\.weight'"),
        (_edit(lambda stored: stored.update({"decoder.x": torch.ones(1)})), r"have no place for 'decoder\.x'"),
        (_edit(lambda stored: stored.update({"decoder.conv_in.bias": torch.ones(1)})), "cannot load it"),
        (_configure(_class_name="VQModel"), r"config\.json: autoencoder 'VQModel' is not supported"),
        (_configure(latents_mean=[0.0] * 4), r"config\.json: latents_mean"),
        (_configure(out_channels=4), r"config\.json: out_channels=4"),
        (lambda folder: (folder / WEIGHTS).rename(folder / "x.bin"), r"\.bin files; run `soda-export convert "),
        (lambda folder: (folder / "config.json").unlink(), r"config\.json: cannot be read"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(change: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    _save(tmp_path)
    change(tmp_path)
    with pytest.raises(ModelError, match=message):
        _export(tmp_path, tmp_path, SHAPE)
    assert not (tmp_path / DECODER_WEIGHTS_NAME).exists()


def test_what_the_encoder_lacks_does_not_matter(tmp_path: Path) -> None:
    vae = _save(tmp_path)
    _edit(lambda stored: stored.pop("encoder.conv_in.weight"))(tmp_path)
    assert torch.equal(_load(tmp_path).decoder.conv_in.weight, vae.decoder.conv_in.weight)


def test_latents_of_other_channels_and_a_missing_seed_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="takes 4 channels, the denoiser has 16"):
        _export(CONFIG, tmp_path, (16, 4, 4), seed=0)
    with pytest.raises(UsageError, match="seed"):
        _export(CONFIG, tmp_path, SHAPE)
