"""DiT (Peebles & Xie 2023, "Scalable Diffusion Models with Transformers"): diffusers' DiTTransformer2DModel."""

from __future__ import annotations

from ..family import Family, Latents, Request, SiteRule, Sizes, Timestep
from ..spec import STACK, Port
from .square import check_square, sized_latents, sized_prediction


def _ports(sizes: Sizes) -> tuple[Port, ...]:
    classes = sizes.config["num_embeds_ada_norm"]
    return (Port("labels", "label", num_classes=classes, null_class=classes),)


DIT = Family(
    name="dit",
    classes=("DiTTransformer2DModel",),
    arguments={"hidden_states": Latents(), "timestep": Timestep(), "class_labels": Request("labels")},
    sites=(
        SiteRule("transformer_blocks.*.attn1", "attn", renew="queries"),
        SiteRule("transformer_blocks.*.ff", "ff", renew="tokens"),
        SiteRule("transformer_blocks.-1", STACK),
    ),
    latent_shape=sized_latents,
    prediction_shape=sized_prediction,
    ports=_ports,
    steps=50,
    default_guidance=1.5,
    blocks=("transformer_blocks.*",),
    once=("transformer_blocks.*.norm1.linear",),
    check=check_square,
)
