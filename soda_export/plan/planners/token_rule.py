"""ToCa's and DuCa's fixed rules as data, and the schedule that a rule gives.

s is the papers' step index, S the number of steps. A step is full if it is the first or if N_t divides s. N_t =
round(N / factor(s)) is set when layer 0 finishes a full step and read anew by every layer, so a step whose new N_t does
not divide s is full in layer 0 only (released code of both; the published FLOPs come out only with this). On other
steps attention is reused and the rest computes int(fresh * layer factor * step factor * share * tokens) tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...models.spec import DenoiserSpec
from ..schedule import BLOCKS_RUN, Schedule

SKIP, PARTIAL, FULL = 0, 1, 2
_DENSE_PERIOD = 2


@dataclass(frozen=True)
class TokenRule:
    """Pairs are the values at both ends, linear in between: of steps at s = 0 and s = S, of layers the first and last.

    period: N, any number above 0. fresh: share of tokens computed, before the factors. shares: module -> its factor.
    dense: range of s, as shares of S, where N_t is 2. skips: where (s mod N_t) is even, all blocks are skipped (DuCa).
    """

    period: float
    period_factor: tuple[float, float]
    fresh: float
    layer_factor: tuple[float, float]
    step_factor: tuple[float, float]
    shares: dict[str, float]
    counts_down: bool
    dense: tuple[float, float] = (0.0, 0.0)
    skips: bool = False


def step_work(rule: TokenRule, steps: int) -> NDArray[np.int64]:
    """FULL, PARTIAL or SKIP for layer 0 and for all others, in execution order: [S, 2]."""
    work = np.zeros((steps, 2), np.int64)
    period = 1
    for t in range(steps):
        s = steps - 1 - t if rule.counts_down else t
        work[t] = FULL if t == 0 else _kind(rule, s, period)
        if work[t, 0] == FULL:
            period = _period_at(rule, s, steps)
            work[t, 1] = FULL if t == 0 else _kind(rule, s, period)
    return work


def keep_counts(rule: TokenRule, spec: DenoiserSpec, steps: int) -> NDArray[np.int64]:
    """Tokens that each module computes on a partial step: [S, L, M]."""
    t = np.arange(steps)
    s = steps - 1 - t if rule.counts_down else t
    by_step = _between(rule.step_factor, s / steps)
    by_layer = _between(rule.layer_factor, np.arange(spec.num_layers) / max(1, spec.num_layers - 1))
    shares = np.array([rule.shares.get(module, 0.0) for module in spec.modules])
    ratio = rule.fresh * by_step[:, None, None] * by_layer[:, None] * shares
    counts: NDArray[np.int64] = (np.clip(ratio, 0.0, 1.0) * spec.num_tokens).astype(np.int64)
    return counts


def schedule_of(rule: TokenRule, spec: DenoiserSpec, steps: int, quantize: bool) -> Schedule:
    """The rule's schedule; quantize: counts are rounded up to the model's quantum, as lowering does.

    Where layer 0 alone is computed and the others are to be skipped, their modules are reused: the released code
    computes layer 0 for later steps and drops its output, which costs the same.
    """
    return assemble(step_work(rule, steps), keep_counts(rule, spec, steps), spec, quantize)


def assemble(work: NDArray[np.int64], counts: NDArray[np.int64], spec: DenoiserSpec, quantize: bool) -> Schedule:
    """work [S, 2] and counts [S, L, M] as a schedule."""
    if quantize:
        counts = np.minimum(-(-counts // spec.keep_quantum) * spec.keep_quantum, spec.num_tokens)
    by_layer = np.repeat(work, [1, max(0, spec.num_layers - 1)], axis=1)[:, :, None]
    kept = np.where(by_layer == FULL, spec.num_tokens, np.where(by_layer == PARTIAL, counts, 0))
    return Schedule(kept, np.where(work[:, 0] == SKIP, 0, BLOCKS_RUN))


def _kind(rule: TokenRule, s: int, period: int) -> int:
    if s % period == 0:
        return FULL
    return SKIP if rule.skips and s % period % 2 == 0 else PARTIAL


def _period_at(rule: TokenRule, s: int, steps: int) -> int:
    """N_t, at least 1, rounded half to even."""
    if int(steps * rule.dense[0]) <= s < int(steps * rule.dense[1]):
        return _DENSE_PERIOD
    at_start, at_end = rule.period_factor
    return max(1, round(rule.period / (at_start + (at_end - at_start) * s / steps)))


def _between(ends: tuple[float, float], share: NDArray[np.float64]) -> NDArray[np.float64]:
    return ends[0] + (ends[1] - ends[0]) * share
