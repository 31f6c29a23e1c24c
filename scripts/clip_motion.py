"""Teach the first blocks of an Open-Sora where the thing of each frame is from the middle of its way, as captions say.

Two things are hard to learn from what is drawn alone. Rotary embedding says how far two frames are apart; which one is
the first has to be found out (nothing is before it, so a head that looks one frame back sees it itself). And the word
for a direction means nothing until the frames are told apart, so frames drawn alone teach to pass over it. Being told
takes a few hundred steps, also where the frames are all noise.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, layer_norm, mse_loss

from soda_export.models.own.stdit import STDiT3

_BLOCKS = 3


def hold_taught(model: STDiT3) -> None:
    """Keep what the lesson has taught: to begin with nothing after it makes use of it, and it would be unlearned."""
    for part in _taught(model):
        part.requires_grad_(False)


def _taught(model: STDiT3) -> list[nn.Module]:
    readers = [block.cross_attn for block in model.spatial_blocks[:_BLOCKS]]
    return [*readers, *model.temporal_blocks[:_BLOCKS]]


class _Reached(Exception):
    """The blocks that learn have run; those after them need not."""


class MotionLesson(nn.Module):
    """The model up to its first temporal blocks; they and what reads the text before them learn, and layers that say of
    each frame which it is and how far from the middle of the way, by the mean over its tokens."""

    def __init__(self, model: STDiT3, frames: int) -> None:
        super().__init__()
        model.requires_grad_(False)
        self.model, self._seen = model, torch.empty(0)
        self.told, self._frames = nn.Linear(model.config.hidden_size, frames + 2), frames
        for part in _taught(model):
            part.requires_grad_(True)
        model.temporal_blocks[_BLOCKS - 1].register_forward_hook(self._stop)

    def _stop(self, block: nn.Module, given: Any, output: Tensor) -> None:
        self._seen = output
        raise _Reached

    def forward(self, ways: Tensor, *given: Any, **settings: Any) -> Tensor:
        """ways: [R, T, 2], of each frame in pixels to the right and down, divided by 10; then what the model takes.
        Cross-entropy and mean squared error of what is said of them."""
        try:
            self.model(*given, **settings)
        except _Reached:
            tokens = self._seen.float().unflatten(1, (self._frames, -1)).mean(dim=2)  # [R, T, D]
        said = self.told(layer_norm(tokens, tokens.shape[2:]))
        names = torch.arange(self._frames).repeat(len(tokens))
        return cross_entropy(said[..., 2:].flatten(0, 1), names) + mse_loss(said[..., :2], ways)
