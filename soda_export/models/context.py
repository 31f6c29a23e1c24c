"""What a text-conditioned model makes of a caption once per request: keys, values and the mask's bias."""

from __future__ import annotations

import torch
from torch import Tensor, nn

TEXT_BIAS = "text_bias"
_MASKED = -10000.0  # diffusers' own bias for padding tokens; exp of it is 0 in fp32


class TextBias(nn.Module):
    """Attention mask [R, T], 1 = attend -> additive bias of the scores [R, 1, 1, T], float32."""

    def forward(self, mask: Tensor) -> Tensor:
        return ((1 - mask.float()) * _MASKED).reshape(mask.shape[0], 1, 1, mask.shape[1])


class TextContext:
    """Cuts a model's text side into pieces that are traced once each.

    caption: embeddings [R, T, E] -> [R, T, D]. projections: name of a context tensor -> module from the caption to
    it, [R, heads, T, D / heads] each. One more tensor, `text_bias`, comes from the mask.
    """

    def __init__(self, caption: nn.Module, projections: dict[str, nn.Module]) -> None:
        self.caption, self.projections, self.bias = caption, projections, TextBias()

    @torch.no_grad()
    def __call__(self, embeds: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Every context tensor of a request, by name."""
        caption = self.caption(embeds)
        made: dict[str, Tensor] = {name: project(caption) for name, project in self.projections.items()}
        return made | {TEXT_BIAS: self.bias(mask)}
