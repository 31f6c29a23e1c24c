"""A model as the planner sees it: sizes and names, no torch."""

from __future__ import annotations

from typing import Literal

import msgspec


class LabelCondition(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="label"):
    """Class labels 0 .. num_classes - 1; null_class is the label of the unconditional rows."""

    num_classes: int
    null_class: int


class TextCondition(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="text"):
    """Captions of `max_tokens` tokens, padding included, embedded in `embed_width` channels."""

    max_tokens: int
    embed_width: int


class DenoiserSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sizes of a diffusion transformer: `num_layers` equal blocks, each with the same `modules` in order.

    hash is the SHA-256 of the configuration and the weights. latent_shape is [C, H, W]; out_channels is C, or 2C
    where the model also predicts a variance.
    """

    name: str
    family: str
    hash: str
    num_layers: int
    modules: tuple[str, ...]
    num_tokens: int
    width: int
    num_heads: int
    ff_width: int
    latent_shape: tuple[int, int, int]
    out_channels: int
    condition: LabelCondition | TextCondition
    output: Literal["pixels", "latents"]

    @property
    def keep_quantum(self) -> int:
        """Kept-token counts are multiples of this: 16, which fills a GEMM tile; less where tokens are few."""
        return 16 if self.num_tokens >= 128 else max(1, self.num_tokens // 8)
