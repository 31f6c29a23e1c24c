"""FLUX.1 (Black Forest Labs 2024), dev and schnell: diffusers' FluxTransformer2DModel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..family import Constant, Family, Latents, Request, SiteRule, Sizes, Timestep
from ..recipe import TextPart, TextRecipe
from ..spec import STACK, Port

_SIDE = 128  # latents of FluxPipeline's default image
_CLIP, _T5 = TextPart("text_encoder", "tokenizer", tokens=77), TextPart("text_encoder_2", "tokenizer_2")


def _latents(sizes: Sizes) -> tuple[int, ...]:
    """[tokens, channels]: a token is 2 x 2 latents."""
    rows, columns = _grid(sizes)
    return (rows * columns, sizes.config["in_channels"])


def _grid(sizes: Sizes) -> tuple[int, int]:
    """Rows and columns of tokens."""
    height, width = sizes.latent_sides(_SIDE)
    return height // 2, width // 2


def _prediction(sizes: Sizes) -> tuple[int, ...]:
    return (sizes.latent_shape[0], sizes.config["out_channels"] or sizes.config["in_channels"])


def _ports(sizes: Sizes) -> tuple[Port, ...]:
    embeds = Port("embeds", "embedding", (sizes.text_tokens, sizes.config["joint_attention_dim"]))
    pooled = Port("pooled_embeds", "embedding", (sizes.config["pooled_projection_dim"],))
    guidance = Port("distilled_guidance", "scalar", default=3.5)
    return (embeds, pooled, guidance) if sizes.config["guidance_embeds"] else (embeds, pooled)


def _image_positions(sizes: Sizes) -> Any:
    """(0, row, column) of each token: [tokens, 3]."""
    import torch

    rows, columns = (torch.arange(count).float() for count in _grid(sizes))
    return torch.cartesian_prod(torch.zeros(1), rows, columns)


def _text_positions(sizes: Sizes) -> Any:
    import torch

    return torch.zeros(sizes.text_tokens, 3)


def _adapt(family: Family, config: Mapping[str, Any]) -> Family:
    """schnell is distilled once more: four steps, no guidance, and texts of half the length."""
    return family if config["guidance_embeds"] else replace(family, guidance="none", steps=4, text_tokens=256)


FLUX = Family(
    name="flux",
    classes=("FluxTransformer2DModel",),
    arguments={
        "hidden_states": Latents(),
        "encoder_hidden_states": Request("embeds"),
        "pooled_projections": Request("pooled_embeds"),
        "timestep": Timestep(scale=1 / 1000), "guidance": Request("distilled_guidance"),
        "img_ids": Constant(_image_positions), "txt_ids": Constant(_text_positions),
    },
    sites=(
        SiteRule("transformer_blocks.*.attn", "joint_attn", outputs=(0, 1)),
        SiteRule("transformer_blocks.*.ff", "ff", renew="tokens"),
        SiteRule("transformer_blocks.*.ff_context", "ff_context"),
        SiteRule("single_transformer_blocks.*.proj_out", "single"),
        SiteRule("single_transformer_blocks.-1", STACK, outputs=(1,)),
    ),
    latent_shape=_latents, prediction_shape=_prediction, ports=_ports, image_tokens=lambda sizes: sizes.latent_shape[0],
    steps=28, default_guidance=1.0, guidance="port", uniform_sigmas=True,
    blocks=("transformer_blocks.*", "single_transformer_blocks.*"),
    once=(
        "transformer_blocks.*.norm1.linear", "transformer_blocks.*.norm1_context.linear",
        "single_transformer_blocks.*.norm.linear",
    ),
    text_tokens=512, patch=2, any_size=True, adapt=_adapt,
    texts=TextRecipe({"embeds": ((_T5.last,),), "pooled_embeds": ((_CLIP.pooled,),)}),
)  # fmt: skip
