"""Stable Diffusion 1, 2 and XL (Rombach et al. 2022, Podell et al. 2023): diffusers' UNet2DConditionModel.

Those of sounds have a record of their own (sound.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..family import Combined, Constant, Family, Latents, Request, Sizes, Timestep
from ..published import AESTHETICS
from ..spec import MASK, MASKED_LATENTS, Port
from .clip_texts import REFINER_TEXTS, SD_TEXTS, SDXL_TEXTS
from .sound import SOUND, sound_family
from .unet_parts import (
    SCORES,
    check_unet,
    embedded_guidance,
    original_size,
    region_ports,
    score_ports,
    scored_ids,
    takes_region,
    time_ids,
    unet_latents,
    unet_sites,
)

_TIME_IDS = 6


def _ports(sizes: Sizes) -> tuple[Port, ...]:
    config = sizes.config
    ports = [Port("embeds", "embedding", (sizes.text_tokens, config["cross_attention_dim"]))]
    if config["addition_embed_type"]:
        ids = _TIME_IDS - config[AESTHETICS]  # one score in the place of two sizes
        width = config["projection_class_embeddings_input_dim"] - ids * config["addition_time_embed_dim"]
        ports += [Port("pooled_embeds", "embedding", (width,)), *(score_ports() if config[AESTHETICS] else ())]
    if config["time_cond_proj_dim"]:
        ports.append(Port("distilled_guidance", "scalar", default=8.5))
    return (*ports, *region_ports(sizes)) if takes_region(config) else tuple(ports)


def _adapt(family: Family, config: Mapping[str, Any]) -> Family:
    """XL takes the image's size and a pooled text, and is guided less; LCM's guidance is distilled into the model; a
    UNet for inpainting takes a mask and masked latents; XL's refiner takes how pleasing the picture is to be."""
    if config["class_embed_type"] == SOUND:
        return sound_family(family, config)
    family = replace(family, sites=unet_sites(config), patch=1 << (len(config["block_out_channels"]) - 1))
    if takes_region(config):
        family = replace(family, arguments={**family.arguments, "sample": Latents((MASK, MASKED_LATENTS))})
    if config["addition_embed_type"]:
        scored = config[AESTHETICS]
        ids = Combined(original_size, SCORES, scored_ids) if scored else Constant(time_ids, rows=True)
        arguments = {
            **family.arguments, "added_cond_kwargs": {"text_embeds": Request("pooled_embeds"), "time_ids": ids}
        }
        texts = REFINER_TEXTS if scored else SDXL_TEXTS
        family = replace(family, arguments=arguments, default_guidance=5.0, texts=texts)
    width = config["time_cond_proj_dim"]
    if width:
        guided = Request("distilled_guidance", lambda scale: embedded_guidance(width, scale))
        arguments = {**family.arguments, "timestep_cond": guided}
        family = replace(family, arguments=arguments, guidance="port", default_guidance=1.0, steps=4)
    return family


UNET = Family(
    name="unet",
    classes=("UNet2DConditionModel",),
    arguments={"sample": Latents(), "timestep": Timestep(), "encoder_hidden_states": Request("embeds")},
    sites=(),  # those of the configuration
    latent_shape=unet_latents, prediction_shape=lambda sizes: sizes.latent_shape, ports=_ports,
    steps=50, default_guidance=7.5,
    blocks=("conv_in", "down_blocks.*", "mid_block", "up_blocks.*", "conv_out"),
    text_tokens=77, texts=SD_TEXTS, any_size=True, adapt=_adapt, check=check_unet,
)  # fmt: skip
