"""Prompts of Stable Diffusion 1, 2 and XL, as their pipelines' encode_prompt takes them from CLIP."""

from __future__ import annotations

from ..recipe import TextPart, TextRecipe

_FIRST, _SECOND = TextPart("text_encoder", "tokenizer"), TextPart("text_encoder_2", "tokenizer_2")

SD_TEXTS = TextRecipe({"embeds": ((_FIRST.last,),)})
"""SD 2's checkpoint lacks OpenCLIP-H's last layer, so that its last state is the penultimate one of that model."""
SDXL_TEXTS = TextRecipe(
    {"embeds": ((_FIRST.penultimate, _SECOND.penultimate),), "pooled_embeds": ((_SECOND.pooled,),)},
    zeros_for_empty=True,
)
REFINER_TEXTS = TextRecipe(
    {"embeds": ((_SECOND.penultimate,),), "pooled_embeds": ((_SECOND.pooled,),)}, zeros_for_empty=True
)
"""XL's refiner has the second encoder alone."""
