"""Teach the first blocks of an Open-Sora where the thing of each frame is from the middle of its way, as captions say.

Two things are hard to learn from what is drawn alone. Rotary embedding says how far two frames are apart; which one is
the first has to be found out (nothing is before it, so a head that looks one frame back sees it itself). And the word
for a direction means nothing until the frames are told apart, so frames drawn alone teach to pass over it. Being told
takes a few hundred steps, also where the frames are all noise. Until later blocks make use of it, it is unlearned as
quickly as that, so the lesson goes on beside all else.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, layer_norm, mse_loss

from soda_export.models.own.stdit import STDiT3

_BLOCKS = 3


class _Reached(Exception):
    """The blocks that learn have run; those after them need not."""


class MotionLesson(nn.Module):
    """A layer that says of every token after the first temporal blocks which frame it is of, how far that is from the
    middle of the way, and what the token shows."""

    def __init__(self, model: STDiT3, frames: int) -> None:
        super().__init__()
        self.model, self._seen, self._stops = model, torch.empty(0), False
        self._frames, self._patch = frames, model.config.patch_size[1:]
        shown = model.config.in_channels * math.prod(self._patch)
        self.told = nn.Linear(model.config.hidden_size, frames + 2 + shown)
        model.temporal_blocks[_BLOCKS - 1].register_forward_hook(self._look)

    def learn_alone(self) -> None:
        """Nothing but the first temporal blocks and what reads the text before them learns, and the rest does not
        run."""
        self._stops = True
        self.model.requires_grad_(False)
        for block in self.model.spatial_blocks[:_BLOCKS]:
            block.cross_attn.requires_grad_(True)
        self.model.temporal_blocks[:_BLOCKS].requires_grad_(True)

    def _look(self, block: nn.Module, given: Any, output: Tensor) -> None:
        self._seen = output
        if self._stops:
            raise _Reached

    def forward(self, *given: Any, **settings: Any) -> tuple[Tensor | None, Tensor]:
        """What the model makes of what it takes, None where the lesson is learned alone; and what is said of every
        token, [R, T, S, T + 2 + C * h * w]."""
        output = None
        with suppress(_Reached):
            output = self.model(*given, **settings)[0]
        seen, self._seen = self._seen, torch.empty(0)
        tokens = seen.float().unflatten(1, (self._frames, -1))  # [R, T, S, D]
        return output, self.told(layer_norm(tokens, tokens.shape[3:]))

    def loss(self, said: Tensor, ways: Tensor, clean: Tensor) -> Tensor:
        """Cross-entropy and mean squared errors of what is said. ways: [R, T, 2], of each frame in pixels to the right
        and down, divided by 10. clean: [R, C, T, H, W], what is to be drawn."""
        name, way, shown = said.float().split([self._frames, 2, said.shape[-1] - self._frames - 2], dim=-1)
        names = torch.arange(self._frames)[:, None].expand(name.shape[:3])
        of_frames = cross_entropy(name.flatten(0, 2), names.flatten())
        return of_frames + mse_loss(way, ways[:, :, None].expand(way.shape)) + mse_loss(shown, self._patches(clean))

    def _patches(self, clean: Tensor) -> Tensor:
        """[R, C, T, H, W] -> [R, T, S, C * h * w], in the order of the tokens."""
        high, wide = self._patch
        parts = clean.unflatten(4, (-1, wide)).unflatten(3, (-1, high))  # [R, C, T, Y, h, X, w]
        return parts.permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(2, 3)
