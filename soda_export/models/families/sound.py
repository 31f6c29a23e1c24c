"""MusicLDM and AudioLDM (Chen et al. 2023, arXiv 2308.01546; Liu et al. 2023, arXiv 2301.12503): UNets of spectrograms.

They are told a text by one vector, CLAP's, beside the timestep; both attentions of a block are to itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import ModelError
from ..family import Constant, Family, Latents, Request, Sizes, Timestep
from ..recipe import TextPart, TextRecipe
from ..spec import Port
from ..vocoder import read_vocoder
from .unet_parts import check_plain, unet_sites

SOUND = "simple_projection"
"""class_embed_type of these UNets."""
_CLAP = TextPart("text_encoder", "tokenizer", mask="prompt_mask")


def _latents(sizes: Sizes) -> tuple[int, ...]:
    """[C, frames, mels] of the latents, as MusicLDMPipeline has them for a length in seconds."""
    config, scale, seconds = sizes.config, sizes.pixels_per_latent, sizes.size.seconds
    own, channels = config["sample_size"], config["in_channels"]
    if "vocoder" not in sizes.parts:
        if seconds:
            raise ModelError(f"--seconds {seconds:g}: without a vocoder/ no frame has a length; leave it out")
        if isinstance(own, int):
            raise ModelError(f"unet/config.json: sample_size={own} says no number of mels, nor is there a vocoder/")
        return (channels, *own)
    vocoder = read_vocoder(sizes.parts["vocoder"])
    if vocoder.mels % scale:
        raise ModelError(f"vocoder/config.json: model_in_dim={vocoder.mels} must be a multiple of the VAE's {scale}")
    if seconds and seconds < vocoder.frame_seconds * scale:
        raise ModelError(f"--seconds {seconds:g}: a latent lasts {vocoder.frame_seconds * scale:g}; give no less")
    seconds = seconds or (own if isinstance(own, int) else own[0]) * scale * vocoder.frame_seconds
    return (channels, vocoder.frames(seconds, scale) // scale, vocoder.mels // scale)


def _ports(sizes: Sizes) -> tuple[Port, ...]:
    return (Port("embeds", "embedding", (sizes.config["projection_class_embeddings_input_dim"],)),)


def _check(path: Path, config: Mapping[str, Any]) -> None:
    check_plain(path, config)
    if config["in_channels"] != config["out_channels"]:
        channels = f"in_channels={config['in_channels']}, out_channels={config['out_channels']}"
        raise ModelError(f"{path}: {channels}: a UNet of sounds takes its latents alone")
    size, widths, features = (
        config[key] for key in ("sample_size", "block_out_channels", "projection_class_embeddings_input_dim")
    )
    if not isinstance(size, int) and (size is None or len(size) != 2):
        raise ModelError(f"{path}: sample_size={size!r}: frames, or frames and mels are needed")
    if not isinstance(features, int):
        raise ModelError(f"{path}: projection_class_embeddings_input_dim={features!r}: one number is needed")
    attended = config["cross_attention_dim"]
    if not isinstance(attended, (list, tuple)) or list(attended) != list(widths):
        raise ModelError(
            f"{path}: cross_attention_dim={attended}: with class_embed_type={SOUND!r} "
            f"it must be block_out_channels={list(widths)}, so that the model attends to no text"
        )


def sound_family(family: Family, config: Mapping[str, Any]) -> Family:
    """The record of UNets for one that makes sounds, with the defaults of MusicLDMPipeline."""
    return replace(
        family,
        arguments={
            "sample": Latents(), "timestep": Timestep(), "class_labels": Request("embeds"),
            "encoder_hidden_states": Constant(lambda sizes: None),
        },
        sites=unet_sites(config, attends_to_text=False), latent_shape=_latents, ports=_ports,
        steps=200, default_guidance=2.0, text_tokens=512, texts=TextRecipe({"embeds": ((_CLAP.pooled,),)}),
        any_size=False, sounds=True, check=_check,
    )  # fmt: skip
