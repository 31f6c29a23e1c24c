"""A model as the planner sees it: sizes and names, no torch."""

from __future__ import annotations

from typing import Literal

import msgspec


class DenoiserSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sizes of a diffusion transformer: `num_layers` equal blocks, each with the same `modules` in order.

    hash is the SHA-256 of the configuration and the weights. latent_shape is [C, H, W].
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
    num_classes: int
    null_class: int
    output: Literal["pixels", "latents"]

    @property
    def keep_quantum(self) -> int:
        """Kept-token counts are multiples of this: 16, which fills a GEMM tile; less where tokens are few."""
        return 16 if self.num_tokens >= 128 else max(1, self.num_tokens // 8)
