"""Stable Diffusion 3 and 3.5 (Esser et al. 2024): diffusers' SD3Transformer2DModel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..family import Family, Latents, Request, SiteRule, Sizes, Timestep
from ..recipe import TextPart, TextRecipe
from ..spec import STACK, Port
from .square import check_patches, sized_latents, sized_prediction

_CLIP_TOKENS = 77  # before T5's in the one sequence of text tokens
_L = TextPart("text_encoder", "tokenizer", _CLIP_TOKENS)
_G = TextPart("text_encoder_2", "tokenizer_2", _CLIP_TOKENS)
_T5 = TextPart("text_encoder_3", "tokenizer_3", may_lack=True)


def _tokens(sizes: Sizes) -> int:
    _, height, width = sizes.latent_shape
    return int(height * width // sizes.config["patch_size"] ** 2)


def _ports(sizes: Sizes) -> tuple[Port, ...]:
    return (
        Port("embeds", "embedding", (_CLIP_TOKENS + sizes.text_tokens, sizes.config["joint_attention_dim"])),
        Port("pooled_embeds", "embedding", (sizes.config["pooled_projection_dim"],)),
    )


def _adapt(family: Family, config: Mapping[str, Any]) -> Family:
    """3.5, which normalises queries and keys, is guided less; its medium size has a second attention in some layers."""
    if not config["dual_attention_layers"]:
        family = replace(family, sites=tuple(rule for rule in family.sites if not rule.path.endswith(".attn2")))
    return replace(family, default_guidance=4.5) if config["qk_norm"] else family


SD3 = Family(
    name="sd3",
    classes=("SD3Transformer2DModel",),
    arguments={
        "hidden_states": Latents(),
        "encoder_hidden_states": Request("embeds"),
        "pooled_projections": Request("pooled_embeds"),
        "timestep": Timestep(),
    },
    sites=(
        SiteRule("transformer_blocks.*.attn", "joint_attn", outputs=(0, 1), last_outputs=(0,)),
        SiteRule("transformer_blocks.*.attn2", "attn"),
        SiteRule("transformer_blocks.*.ff", "ff", renew="tokens"),
        SiteRule("transformer_blocks.*.ff_context", "ff_context"),
        SiteRule("transformer_blocks.-1", STACK, outputs=(1,)),
    ),
    latent_shape=sized_latents, prediction_shape=sized_prediction, ports=_ports, image_tokens=_tokens,
    steps=28, default_guidance=7.0,
    blocks=("transformer_blocks.*",),
    once=("transformer_blocks.*.norm1.linear", "transformer_blocks.*.norm1_context.linear"),
    text_tokens=256, any_size=True, adapt=_adapt, check=check_patches,
    texts=TextRecipe({
        "embeds": ((_L.penultimate, _G.penultimate), (_T5.last,)),
        "pooled_embeds": ((_L.pooled, _G.pooled),),
    }),
)  # fmt: skip
