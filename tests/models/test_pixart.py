"""The PixArt family at the Denoiser seam: diffusers' own numbers, what is refused, and what a step costs."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import PixArtTransformer2DModel
from torch import Tensor

from soda_export.errors import ModelError
from soda_export.models import pixart
from soda_export.models.denoiser import Denoiser, Prepared, TextRows, call_denoiser
from soda_export.models.flops import full_step_flops, module_flops, step_flops
from soda_export.models.load import load_denoiser
from soda_export.models.pixart import PixArtDenoiser, pixart_spec
from soda_export.models.spec import DenoiserSpec, LabelCondition, TextCondition
from tests.tiny import save_tiny_pixart

T = 120  # tokens of a caption where no tokenizer says otherwise


def load(folder: Path, **config: object) -> tuple[Denoiser, Any]:
    """The model at the seam, and diffusers' own."""
    save_tiny_pixart(folder, vae=False, text=False, **config)
    return load_denoiser(str(folder)).denoiser, PixArtTransformer2DModel.from_pretrained(folder / "transformer").eval()


def random_text(rows: int, seed: int = 0) -> TextRows:
    """Captions of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(rows, T, dtype=torch.int64)
    for row in range(rows):
        mask[row, : 1 + 7 * row] = 1
    return TextRows(torch.randn(rows, T, 16, generator=generator), mask)


@torch.no_grad()
def call(denoiser: Denoiser, latents: Tensor, timestep: float, text: TextRows) -> Tensor:
    """One model call through the seam, everything computed."""
    prepared = Prepared(denoiser, (timestep,), text)
    output, _ = call_denoiser(
        denoiser, latents, prepared.conditioning(0),
        lambda layer, name, inputs: denoiser.module(layer, name)(inputs(), *prepared.context(layer, name)),
    )  # fmt: skip
    return output


@pytest.mark.parametrize(
    ("config", "timestep"),
    [
        ({}, 481),
        ({}, 903.6251),
        ({"use_additional_conditions": True}, 12.5),
        ({"patch_size": 1, "sample_size": 4, "use_additional_conditions": True}, 0),
        ({"out_channels": 4, "attention_bias": False, "activation_fn": "gelu", "interpolation_scale": 2}, 999),
    ],
    ids=["plain", "fractional timestep", "micro-conditioning", "micro-conditioning, patch 1", "other settings"],
)
@torch.no_grad()
def test_the_seam_computes_what_diffusers_computes(tmp_path: Path, config: dict[str, Any], timestep: float) -> None:
    denoiser, model = load(tmp_path / "model", **config)
    side = float(8 * denoiser.spec.latent_shape[1])
    text = random_text(3)
    latents = torch.randn(3, *denoiser.spec.latent_shape, generator=torch.Generator().manual_seed(1))
    size = {"resolution": torch.full((3, 2), side), "aspect_ratio": torch.ones(3, 1)}
    if not config.get("use_additional_conditions"):
        size = dict.fromkeys(size)
    expected = model(
        latents, encoder_hidden_states=text.embeds, encoder_attention_mask=text.mask,
        timestep=torch.tensor(timestep).expand(3), added_cond_kwargs=size,
    ).sample  # fmt: skip
    found = call(denoiser, latents, timestep, text)
    assert found.shape[1] == denoiser.spec.out_channels
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_micro_conditioning_is_that_of_the_model_own_size(tmp_path: Path) -> None:
    """The frozen resolution enters the tables, so another size gives another table."""
    denoiser, model = load(tmp_path / "model", use_additional_conditions=True)
    tables = denoiser.tables((100,))
    for pixels, same in ((64.0, True), (128.0, False)):
        size = {"resolution": torch.full((1, 2), pixels), "aspect_ratio": torch.ones(1, 1)}
        with torch.no_grad():
            expected, _ = model.adaln_single(torch.tensor([100]), size, batch_size=1, hidden_dtype=torch.float32)
        assert torch.allclose(tables["modulation"].flatten(), expected.flatten(), atol=1e-6) == same


def test_padding_never_matters(tmp_path: Path) -> None:
    denoiser, _ = load(tmp_path / "model")
    text, latents = random_text(2), torch.randn(2, *denoiser.spec.latent_shape)
    others = torch.where(text.mask[..., None] == 1, text.embeds, 50 * torch.randn(text.embeds.shape))
    assert torch.equal(call(denoiser, latents, 7, text), call(denoiser, latents, 7, TextRows(others, text.mask)))
    seen = TextRows(text.embeds * 1.5, text.mask)
    assert not torch.allclose(call(denoiser, latents, 7, text), call(denoiser, latents, 7, seen), atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", ["attn", "cross_attn", "ff"])
def test_kept_tokens_get_what_the_whole_module_gives_them(tmp_path: Path, name: str) -> None:
    denoiser, _ = load(tmp_path / "model")
    module, context = denoiser.module(1, name), Prepared(denoiser, (5,), random_text(2)).context(1, name)
    inputs, tokens = torch.randn(2, 16, 48), torch.tensor([3, 0, 11])
    kept = module.kept(inputs, inputs[:, tokens], *context)
    torch.testing.assert_close(kept, module(inputs, *context)[:, tokens], rtol=1e-5, atol=1e-5)


def test_conditioning_is_the_same_for_every_row(tmp_path: Path) -> None:
    denoiser, _ = load(tmp_path / "model")
    prepared = Prepared(denoiser, (3, 500), random_text(4))
    assert prepared.conditioning(1).shape == (1, 6 * 3 + 2, 48)
    assert not torch.equal(prepared.conditioning(0), prepared.conditioning(1))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"caption_channels": None}, "caption_channels is not set"),
        ({"cross_attention_dim": 32}, "cross_attention_dim=32 is not the width 48"),
        ({"norm_elementwise_affine": True}, "norm_elementwise_affine and attention_type"),
        ({"sample_size": 9}, "sample_size=9, patch_size=2"),
        ({"out_channels": 5}, "out_channels=5 is neither"),
        ({"activation_fn": "geglu"}, "activation_fn='geglu'"),
    ],
)
def test_what_the_family_would_not_reproduce_is_refused(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    save_tiny_pixart(tmp_path / "model", vae=False, text=False, **config)
    with pytest.raises(ModelError, match=message) as refused:
        load_denoiser(str(tmp_path / "model"))
    assert str(refused.value).startswith(str(tmp_path / "model/transformer/config.json"))
    assert "\n" not in str(refused.value)


def test_each_block_is_released_when_it_has_been_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny_pixart(tmp_path / "model", vae=False, text=False)
    model = PixArtTransformer2DModel.from_pretrained(tmp_path / "model/transformer")
    spec, blocks = pixart_spec(model, "tiny", "", False, T), [weakref.ref(b) for b in model.transformer_blocks]
    alive, original = [], pixart.SelfAttention

    def counting(*args: Any) -> Any:
        alive.append(sum(block() is not None for block in blocks))
        return original(*args)

    monkeypatch.setattr(pixart, "SelfAttention", counting)
    denoiser = PixArtDenoiser(model, spec)
    assert alive == [3, 2, 1]
    assert all(block() is None for block in blocks)
    assert denoiser.spec.num_layers == 3


def test_flops_of_dit_xl_2_are_those_of_the_papers() -> None:
    spec = DenoiserSpec(
        name="dit-xl-2-256", family="dit", hash="", num_layers=28, modules=("attn", "ff"), num_tokens=256, width=1152,
        num_heads=16, ff_width=4608, latent_shape=(4, 32, 32), out_channels=8,
        condition=LabelCondition(num_classes=1000, null_class=1000), output="latents",
    )  # fmt: skip
    step = full_step_flops(spec, rows=2)
    for steps, reported in ((1, 0.474706), (50, 23.735), (250, 118.676)):
        assert steps * step / 1e12 == pytest.approx(reported, rel=1e-3)


def test_flops_of_a_pixart_step_are_those_counted_by_hand() -> None:
    spec = DenoiserSpec(
        name="toy", family="pixart", hash="", num_layers=2, modules=("attn", "cross_attn", "ff"), num_tokens=4, width=8,
        num_heads=2, ff_width=32, latent_shape=(4, 4, 4), out_channels=8,
        condition=TextCondition(max_tokens=3, embed_width=5), output="latents",
    )  # fmt: skip
    # projections of q, k, v and of the output; scores and weighted sums; softmax
    attn = 2 * 4 * 8 * 24 + 2 * 4 * 8 * 8 + 2 * (2 * 4 * 4 * 8) + 5 * 2 * 4 * 4
    cross = 2 * (2 * 4 * 8 * 8) + 2 * (2 * 4 * 3 * 8) + 5 * 2 * 4 * 3
    ff = 2 * (2 * 4 * 8 * 32) + 6 * 4 * 32  # up, down; gelu
    assert (attn, cross, ff) == (2720, 1528, 4864)
    assert [module_flops(spec, name, 4) for name in spec.modules] == [attn, cross, ff]
    fixed = 2 * 8 * 48 + 2 * 2 * 3 * 4 * 8  # adaLN-single once; gated sums of 2 layers and 2 rows
    assert full_step_flops(spec, rows=2) == fixed + 2 * 2 * (attn + cross + ff)
    # two of four tokens: half of cross-attention and feed-forward, and attention's keys and values of all tokens
    half = 2 * 2 * 8 * 8 + 2 * 4 * 8 * 16 + 2 * 2 * 8 * 8 + 2 * (2 * 2 * 4 * 8) + 5 * 2 * 2 * 4
    assert [module_flops(spec, name, 2) for name in spec.modules] == [half, cross // 2, ff // 2]
    assert step_flops(spec, 1, [[0, 0, 0], [2, 4, 0]]) == 2 * 8 * 48 + 2 * 3 * 4 * 8 + half + cross
