"""What UNets of Stable Diffusion have beside their record: sites by configuration, made arguments, limits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import ModelError
from ..family import SiteRule, Sizes
from ..spec import DEEP, IS_NEGATIVE, MASK, MASKED_LATENTS, STACK, Port
from .square import sized_latents

SCORES = ("aesthetic_score", "negative_aesthetic_score", IS_NEGATIVE)
"""Ports of the refiner."""
_PLAIN = {
    "attention_type": ("default",), "center_input_sample": (False,), "encoder_hid_dim_type": (None,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",), "num_class_embeds": (None,),
}  # fmt: skip
_OF_PICTURES = {"addition_embed_type": (None, "text_time"), "class_embed_type": (None,)}
_OF_SOUNDS = {"addition_embed_type": (None,)}


def unet_sites(config: Mapping[str, Any], *, attends_to_text: bool = True) -> tuple[SiteRule, ...]:
    """Attentions, feed-forwards and residual branches of each block, and the deep feature that DeepCache (Ma et al.
    2024) keeps: it enters the last block, or, where that one has attention, the block's last layer.

    attends_to_text: else a block's second attention is to itself, too.
    """
    down, up = config["down_block_types"], config["up_block_types"]
    deep = "up_blocks.-1.attentions.-2" if "Attn" in up[-1] else "up_blocks.-2"
    second: dict[str, Any] = {"kind": "cross_attn", "renew": "tokens"}
    second = second if attends_to_text else {"kind": "attn", "renew": "queries"}
    rules = []
    for place, kinds in {"down_blocks.*": down, "mid_block": ["Attn"], "up_blocks.*": up}.items():
        rules.append(SiteRule(f"{place}.resnets.*.conv2", "resnet"))
        if any("Attn" in kind for kind in kinds):
            layer = f"{place}.attentions.*.transformer_blocks.*"
            rules += [
                SiteRule(f"{layer}.attn1", "attn", renew="queries"),
                SiteRule(f"{layer}.attn2", **second),
                SiteRule(f"{layer}.ff", "ff", renew="tokens"),
                SiteRule(f"{place}.attentions.*.proj_out", "transformer", contains=True),
            ]
    outputs = (0,) if deep.startswith("up_blocks.-1") else ()
    return (*rules, SiteRule(deep, DEEP, outputs, contains=True), SiteRule("conv_out", STACK))


def takes_region(config: Mapping[str, Any]) -> bool:
    """Whether a UNet was made for inpainting: it takes a mask and the latents of the masked picture, too."""
    return bool(config["in_channels"] == 2 * config["out_channels"] + 1)


def unet_latents(sizes: Sizes) -> tuple[int, ...]:
    """[C, h, w] of the latents alone."""
    return (sizes.config["out_channels"], *sized_latents(sizes)[1:])


def region_ports(sizes: Sizes) -> tuple[Port, ...]:
    """What is drawn anew, and the rest of the picture, as StableDiffusionInpaintPipeline prepares them."""
    channels, *size = sizes.latent_shape
    return (Port(MASK, "hint", (1, *size)), Port(MASKED_LATENTS, "hint", (channels, *size)))


def time_ids(sizes: Sizes) -> Any:
    """Size of the original, corner of the crop and size wanted, of an image that was never cropped: [1, 6] pixels."""
    import torch

    height, width = (float(side * sizes.pixels_per_latent) for side in sizes.latent_shape[1:])
    return torch.tensor([[height, width, 0.0, 0.0, height, width]])


def original_size(sizes: Sizes) -> Any:
    """Size of the original and corner of the crop: [1, 4] pixels."""
    return time_ids(sizes)[:, :4]


def score_ports() -> tuple[Port, ...]:
    """The refiner's aesthetic scores, of conditional and of unconditional rows, with the defaults of its pipeline."""
    score, negative, row = SCORES
    return (
        Port(score, "scalar", default=6.0, most=10.0), Port(negative, "scalar", default=2.5, most=10.0),
        Port(row, "row"),
    )  # fmt: skip


def scored_ids(size: Any, score: Any, negative: Any, is_negative: Any) -> Any:
    """[R, 4], and three times [R] -> [R, 5]."""
    import torch

    own = score * (1 - is_negative) + negative * is_negative
    return torch.cat([size.to(own.dtype), own[:, None]], dim=1)


def embedded_guidance(width: int, guidance: Any) -> Any:
    """Sines and cosines of LCM's guidance scale (Luo et al. 2023): [R] -> [R, width]."""
    import torch

    rates = torch.exp(-math.log(10000.0) / (width // 2 - 1) * torch.arange(width // 2, dtype=guidance.dtype))
    angles = (guidance[:, None] - 1) * 1000.0 * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def check_unet(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse UNets that take more than latents, a time and a text, or that are not of one size."""
    _check_known(path, config, {**_PLAIN, **_OF_PICTURES})
    if config["in_channels"] != config["out_channels"] and not takes_region(config):
        channels = f"in_channels={config['in_channels']}, out_channels={config['out_channels']}"
        what = "beside the latents a UNet may take a mask and masked latents (9 channels of 4), nothing else"
        raise ModelError(f"{path}: {channels}: {what}")
    for key in ("sample_size", "cross_attention_dim"):
        if not isinstance(config[key], int):
            raise ModelError(f"{path}: {key}={config[key]!r}: one number is needed")


def check_plain(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse UNets that take more than latents, a time and one vector of a text."""
    _check_known(path, config, {**_PLAIN, **_OF_SOUNDS})


def _check_known(path: Path, config: Mapping[str, Any], known: Mapping[str, tuple[Any, ...]]) -> None:
    for key, values in known.items():
        if config[key] not in values:
            supported = ", ".join(map(repr, values))
            raise ModelError(f"{path}: {key}={config[key]!r} is not supported; supported: {supported}")
