"""How many samples are profiled together, and which of their tokens are compared: as many as memory allows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.spec import ModelSpec
from ..plan.sensitivity import MAX_INTERVAL

_BATCH = 8  # samples that run together where memory allows: more gain nothing
_LEAST = 16  # tokens that are compared in any case
_VALUE_BYTES = 2  # the history is fp16


@dataclass(frozen=True)
class Watched:
    """batch: samples that run together. share: of each output's tokens that are compared, 0..1. bytes: of the history
    of the last nine steps."""

    batch: int
    share: float
    bytes: int

    def tokens(self, count: int) -> int:
        """How many of `count` tokens are compared."""
        return compared_tokens(count, self.share)

    def chosen(self, count: int, seed: int) -> Tensor | None:
        """Numbers of the compared tokens, in order; None for all. Outputs of as many tokens share them."""
        number = self.tokens(count)
        if number == count:
            return None
        generator = torch.Generator().manual_seed(seed)
        return torch.randperm(count, generator=generator)[:number].sort().values


def compared_tokens(count: int, share: float) -> int:
    """A share of the tokens, but no fewer than a mean needs."""
    return min(count, max(_LEAST, math.floor(share * count)))


def fit_history(spec: ModelSpec, rows: int, samples: int, memory_bytes: int) -> Watched:
    """As many samples at once as fit whole; where not even one does, one with some of its tokens."""
    for batch in (_BATCH, _BATCH // 2, _BATCH // 4, 1):
        needed = history_bytes(spec, rows * batch, 1.0)
        if needed <= memory_bytes:
            return Watched(min(batch, samples), 1.0, history_bytes(spec, rows * min(batch, samples), 1.0))
    share = memory_bytes / needed
    return Watched(1, share, history_bytes(spec, rows, share))


def history_bytes(spec: ModelSpec, rows: int, share: float) -> int:
    """Of the last nine outputs of every site."""
    values = 0
    for site in spec.sites:
        for shape in site.outputs:
            count, width = tokens_and_width(shape)
            values += compared_tokens(count, share) * width
    return MAX_INTERVAL * rows * values * _VALUE_BYTES


def tokens_and_width(shape: tuple[int, ...]) -> tuple[int, int]:
    """A row's output as tokens: [D] is one, [N, D] is N, [C, H, W] and [C, F, H, W] are places of C channels."""
    if len(shape) < 3:
        return (1 if len(shape) == 1 else shape[0]), shape[-1]
    return math.prod(shape[1:]), shape[0]


def as_tokens(output: Tensor) -> Tensor:
    """[R, ...] -> [R, N, D], as tokens_and_width counts them."""
    if output.dim() < 4:
        return output[:, None] if output.dim() == 2 else output
    return output.flatten(2).transpose(1, 2)
