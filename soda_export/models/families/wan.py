"""Wan 2.1 and 2.2 (Wan team 2025, arXiv 2503.20314), text to video: diffusers' WanTransformer3DModel."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import ModelError
from ..family import Family, Latents, Request, SiteRule, Size, Sizes, Timestep
from ..published import read_json
from ..recipe import TextPart, TextRecipe
from ..spec import STACK, Port

_UMT5 = TextPart("text_encoder", "tokenizer", clean="unescape-collapse", mask="prompt_mask")
_FRAMES_PER_LATENT = 4  # of every published autoencoder


def _latents(sizes: Sizes) -> tuple[int, ...]:
    """[C, F, h, w]: the first latent frame is one frame, each further one several."""
    frames, size = sizes.size.frames, sizes.size
    per_latent = int(sizes.parts.get("vae", {}).get("scale_factor_temporal") or _FRAMES_PER_LATENT)
    if frames % per_latent != 1:
        raise ModelError(f"--frames {frames}: the autoencoder makes 1 + a multiple of {per_latent}")
    side = sizes.pixels_per_latent
    return (sizes.config["in_channels"], 1 + frames // per_latent, size.height // side, size.width // side)


def _prediction(sizes: Sizes) -> tuple[int, ...]:
    return (sizes.config["out_channels"] or sizes.latent_shape[0], *sizes.latent_shape[1:])


def _ports(sizes: Sizes) -> tuple[Port, ...]:
    return (Port("embeds", "embedding", (sizes.text_tokens, sizes.config["text_dim"])),)


def _check(path: Path, config: Mapping[str, Any]) -> None:
    """Models that are given a picture, and pairs of models, have pipelines of their own."""
    if config["image_dim"] or config["added_kv_proj_dim"] or config["in_channels"] != config["out_channels"]:
        raise ModelError(f"{path}: a Wan model that starts from a picture is not supported; use a text-to-video one")
    if list(config["patch_size"]) != [1, 2, 2]:
        raise ModelError(f"{path}: patch_size={config['patch_size']} is not supported; published models have [1, 2, 2]")
    index = path.parent.parent / "model_index.json"
    pair = read_json(index, "").get("transformer_2") if index.is_file() else None
    if pair and pair[0]:
        raise ModelError(f"{index}: transformer_2: pairs of transformers (Wan 2.2 A14B) are not supported")


WAN = Family(
    name="wan",
    classes=("WanTransformer3DModel",),
    arguments={
        "hidden_states": Latents(),
        "timestep": Timestep(),
        "encoder_hidden_states": Request("embeds"),
    },
    sites=(
        SiteRule("blocks.*.attn1", "attn"),
        SiteRule("blocks.*.attn2", "cross_attn", renew="tokens"),
        SiteRule("blocks.*.ffn", "ff", renew="tokens"),
        SiteRule("blocks.-1", STACK),
    ),
    latent_shape=_latents,
    prediction_shape=_prediction,
    ports=_ports,
    steps=50,
    default_guidance=5.0,
    blocks=("blocks.*",),
    once=("condition_embedder.time_proj",),
    text_tokens=512,
    texts=TextRecipe({"embeds": ((_UMT5.last_masked,),)}),
    size=Size(480, 832, 81, 16.0),
    any_size=True,
    patch=2,
    check=_check,
)
