"""Open-Sora 1.2 (Zheng et al. 2024, arXiv 2412.20404), text to video: our own STDiT3 (models/own/stdit.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Any

from ...errors import ModelError
from ..family import Combined, Constant, Family, Latents, Request, SiteRule, Size, Sizes, Timestep
from ..recipe import TextPart, TextRecipe
from ..spec import IS_NEGATIVE, STACK, Port

CHUNK_FRAMES, CHUNK_LATENTS = 17, 5  # of Open-Sora's autoencoder
_BASE_SIDE = 512  # pixels of the picture whose timesteps are spread evenly
_T5 = TextPart("text_encoder", "tokenizer", clean="lower-strip", mask="attention_mask")


def _latent_frames(sizes: Sizes) -> int:
    """Open-Sora's autoencoder makes 5 of 17 frames, and a single frame of one; one of images makes one of each."""
    frames, vae = sizes.size.frames, sizes.parts.get("vae", {})
    if frames == 1 or vae.get("_class_name"):  # of diffusers, so of images
        return frames
    if frames % CHUNK_FRAMES:
        raise ModelError(f"--frames {frames}: the autoencoder makes 1, or a multiple of {CHUNK_FRAMES}")
    return frames // CHUNK_FRAMES * CHUNK_LATENTS


def _latents(sizes: Sizes) -> tuple[int, ...]:
    """[C, F, h, w]; pixels that do not fill a latent are cut off."""
    side, size = sizes.pixels_per_latent, sizes.size
    return (sizes.config["in_channels"], _latent_frames(sizes), size.height // side, size.width // side)


def _prediction(sizes: Sizes) -> tuple[int, ...]:
    channels, *rest = sizes.latent_shape
    return (channels * (1 + sizes.config["pred_sigma"]), *rest)


def _ports(sizes: Sizes) -> tuple[Port, ...]:
    tokens = sizes.text_tokens
    return (
        Port("embeds", "embedding", (tokens, sizes.config["caption_channels"])),
        Port("attention_mask", "mask", (tokens,)),
        Port(IS_NEGATIVE, "row"),
    )  # fmt: skip


def _shift(sizes: Sizes) -> float:
    """By which RFlow draws timesteps towards noise: the larger the video, the more."""
    return sqrt(sizes.size.height * sizes.size.width * _latent_frames(sizes)) / _BASE_SIDE


def _own_mask(_: Any, mask: Any, is_negative: Any) -> Any:
    """Rows that guidance steers away from have the learned text, and the mask of the sample's own."""
    import torch

    rows = mask.shape[0]
    places = torch.arange(rows) - (rows // 2) * is_negative.long()  # the negative rows are the second half
    return mask[places]


def _number(value: float) -> Any:
    import torch

    return torch.tensor([float(value)])


def _adapt(family: Family, config: Mapping[str, Any]) -> Family:
    """The learned text has the length that prompts are padded to."""
    return replace(family, text_tokens=config["model_max_length"])


def _check(path: Path, config: Mapping[str, Any]) -> None:
    if list(config["patch_size"]) != [1, 2, 2]:
        raise ModelError(f"{path}: patch_size={config['patch_size']} is not supported; published models have [1, 2, 2]")


OPENSORA = Family(
    name="opensora",
    classes=("STDiT3",),
    arguments={
        "hidden_states": Latents(), "timestep": Timestep(), "encoder_hidden_states": Request("embeds"),
        "encoder_attention_mask": Combined(lambda _: _number(0), ("attention_mask", IS_NEGATIVE), _own_mask),
        "fps": Constant(lambda sizes: _number(sizes.size.fps)),
        "height": Constant(lambda sizes: _number(sizes.size.height)),
        "width": Constant(lambda sizes: _number(sizes.size.width)),
        "is_negative": Request(IS_NEGATIVE),
    },
    sites=(
        SiteRule("spatial_blocks.*.attn", "s_attn"), SiteRule("temporal_blocks.*.attn", "t_attn"),
        SiteRule("spatial_blocks.*.cross_attn", "s_cross", renew="tokens"),
        SiteRule("temporal_blocks.*.cross_attn", "t_cross", renew="tokens"),
        SiteRule("spatial_blocks.*.mlp", "s_ff", renew="tokens"),
        SiteRule("temporal_blocks.*.mlp", "t_ff", renew="tokens"),
        SiteRule("temporal_blocks.-1", STACK),
    ),
    latent_shape=_latents, prediction_shape=_prediction, ports=_ports, shift=_shift,
    steps=30, default_guidance=7.0,
    blocks=("spatial_blocks.* temporal_blocks.*",),
    once=("t_block.1",),
    texts=TextRecipe({"embeds": ((_T5.last,),)}),
    size=Size(480, 854, 51, 24.0), any_size=True, cuts=True, adapt=_adapt, check=_check,
)  # fmt: skip
