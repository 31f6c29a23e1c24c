"""The last nine outputs of a site, compared with each new one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..eager.tokens import TokenScorer, top_tokens
from ..models.identity import TokenScore
from ..plan.sensitivity import MAX_INTERVAL, Metric
from .metric import reuse_and_prune_errors, reuse_errors, token_terms
from .subset import as_tokens

_LIMIT = 65280.0  # the largest number that both fp16 and bf16 have


class SiteHistory:
    """fp16 copies of the compared tokens, in rings of nine.

    chosen: for each output, which tokens are compared; None for all. score: whose best tokens a renewal keeps; None for
    a site without renewals.
    """

    def __init__(self, chosen: Sequence[Tensor | None], rows: int, metric: Metric, score: TokenScore | None) -> None:
        self._chosen, self._rows, self._metric, self._score = tuple(chosen), rows, metric, score
        self._rings: list[Tensor] = []  # [9, B, G, n, D] for each output
        self._pushed = 0

    def compare(self, outputs: Sequence[Tensor], inputs: Tensor) -> Tensor:
        """Errors of using each older output for the new ones: float64 [I, B, 1 + P], newest first; [I, B, 1] for a site
        without renewals. inputs: [R, N, D] of the module. The outputs are kept for later calls."""
        new = [self._picked(output, chosen) for output, chosen in zip(outputs, self._chosen, strict=True)]
        count = min(self._pushed, MAX_INTERVAL)
        errors = self._errors(new, inputs, count) if count else torch.zeros(0, 0, 1, dtype=torch.float64)
        self._push(new)
        return errors

    def _errors(self, new: Sequence[Tensor], inputs: Tensor, count: int) -> Tensor:
        newest_first = [(self._pushed - 1 - i) % MAX_INTERVAL for i in range(count)]
        old = [ring[:count] for ring in self._rings]
        terms = token_terms(new, old, self._metric)[newest_first]
        if self._score is None:
            return reuse_errors(terms, self._metric)[..., None].cpu()
        order = self._order(inputs, newest_first if self._score == "cached" else newest_first[:1])
        return reuse_and_prune_errors(terms, order.expand_as(terms), self._metric).cpu()

    def _order(self, inputs: Tensor, places: Sequence[int]) -> Tensor:
        """Tokens by score, best first: [I, B, N], or [1, B, N] where the score does not look at the cached output."""
        assert self._score is not None
        given, scorer = self._picked(inputs, self._chosen[0]).transpose(0, 1), TokenScorer(self._score, self._rows)
        cached = [self._rings[0][place].transpose(0, 1) for place in places]
        scores = [scorer(given.flatten(0, 1), older.flatten(0, 1)) for older in cached]
        return torch.stack([top_tokens(score, score.shape[1]) for score in scores])

    def _picked(self, output: Tensor, chosen: Tensor | None) -> Tensor:
        """[G * B, ...] -> the compared tokens [B, G, n, D]."""
        tokens = as_tokens(output)
        tokens = tokens if chosen is None else tokens[:, chosen.to(tokens.device)]
        return tokens.reshape(self._rows, -1, *tokens.shape[1:]).transpose(0, 1)

    def _push(self, new: Sequence[Tensor]) -> None:
        if not self._rings:
            half = torch.float16
            self._rings = [tensor.new_empty((MAX_INTERVAL, *tensor.shape), dtype=half) for tensor in new]
        for ring, tensor in zip(self._rings, new, strict=True):
            ring[self._pushed % MAX_INTERVAL] = tensor.clamp(-_LIMIT, _LIMIT)
        self._pushed += 1
