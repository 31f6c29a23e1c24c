"""PixArt-alpha and Sigma (Chen et al. 2023, 2024): diffusers' PixArtTransformer2DModel."""

from __future__ import annotations

from typing import Any

from ..family import Constant, Family, Latents, Request, SiteRule, Sizes, Timestep
from ..recipe import TextPart, TextRecipe
from ..spec import STACK, Port
from .square import check_square, sized_latents, sized_prediction

_PIXELS_PER_LATENT = 8  # of the autoencoders of every model with micro-conditioning
_T5 = TextPart("text_encoder", "tokenizer", clean="lower-strip", mask="attention_mask")


def _ports(sizes: Sizes) -> tuple[Port, ...]:
    tokens = sizes.text_tokens
    width = sizes.config["caption_channels"] or sizes.config["cross_attention_dim"]
    return (
        Port("embeds", "embedding", (tokens, width)),
        Port("attention_mask", "mask", (tokens,)),
    )


def _micro_conditions(sizes: Sizes) -> dict[str, Any]:
    """Height and width in pixels, and their ratio; a model without micro-conditioning does not look at them."""
    import torch

    _, height, width = (_PIXELS_PER_LATENT * n for n in sizes.latent_shape)
    return {
        "resolution": torch.tensor([[float(height), float(width)]]),
        "aspect_ratio": torch.tensor([[height / width]]),
    }


PIXART = Family(
    name="pixart",
    classes=("PixArtTransformer2DModel",),
    arguments={
        "hidden_states": Latents(),
        "timestep": Timestep(),
        "encoder_hidden_states": Request("embeds"),
        "encoder_attention_mask": Request("attention_mask"),
        "added_cond_kwargs": Constant(_micro_conditions, rows=True),
    },
    sites=(
        SiteRule("transformer_blocks.*.attn1", "attn", renew="queries"),
        SiteRule("transformer_blocks.*.attn2", "cross_attn", renew="tokens"),
        SiteRule("transformer_blocks.*.ff", "ff", renew="tokens"),
        SiteRule("transformer_blocks.-1", STACK),
    ),
    latent_shape=sized_latents,
    prediction_shape=sized_prediction,
    ports=_ports,
    steps=20,
    default_guidance=4.5,
    blocks=("transformer_blocks.*",),
    once=("adaln_single.linear",),
    text_tokens=120,
    text_tokens_by_pipeline={"PixArtSigmaPipeline": 300},
    texts=TextRecipe({"embeds": ((_T5.last,),)}),
    any_size=True,
    check=check_square,
)
