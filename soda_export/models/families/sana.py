"""Sana (Xie et al. 2024, arXiv 2410.10629): diffusers' SanaTransformer2DModel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import ModelError
from ..family import Family, Latents, Request, SiteRule, Sizes, Timestep
from ..spec import STACK, Port
from .square import check_square, sized_latents, sized_prediction


def _ports(sizes: Sizes) -> tuple[Port, ...]:
    return (
        Port("embeds", "embedding", (sizes.text_tokens, sizes.config["caption_channels"])),
        Port("attention_mask", "mask", (sizes.text_tokens,)),
    )


def _adapt(family: Family, config: Mapping[str, Any]) -> Family:
    """The pipeline multiplies timesteps by a number of the configuration."""
    return replace(family, arguments={**family.arguments, "timestep": Timestep(scale=config["timestep_scale"])})


def _check(path: Path, config: Mapping[str, Any]) -> None:
    """SANA-Sprint is this class with an embedding of the guidance, and a sampler of its own."""
    check_square(path, config)
    if config["guidance_embeds"]:
        raise ModelError(f"{path}: guidance_embeds=true is SANA-Sprint, which is not supported; use a SanaPipeline")


SANA = Family(
    name="sana",
    classes=("SanaTransformer2DModel",),
    arguments={
        "hidden_states": Latents(),
        "encoder_hidden_states": Request("embeds"),
        "encoder_attention_mask": Request("attention_mask"),
        "timestep": Timestep(),
    },
    sites=(
        SiteRule("transformer_blocks.*.attn1", "attn", renew="queries"),
        SiteRule("transformer_blocks.*.attn2", "cross_attn", renew="tokens"),
        SiteRule("transformer_blocks.*.ff", "ff"),
        SiteRule("transformer_blocks.-1", STACK),
    ),
    latent_shape=sized_latents,
    prediction_shape=sized_prediction,
    ports=_ports,
    steps=20,
    default_guidance=4.5,
    blocks=("transformer_blocks.*",),
    once=("time_embed.linear",),
    text_tokens=300,
    adapt=_adapt,
    check=_check,
)
