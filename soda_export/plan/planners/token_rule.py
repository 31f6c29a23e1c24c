"""ToCa's and DuCa's fixed rules as data, and the schedule that a rule gives.

s is the papers' step index, S the number of steps. A step is full if it is the first or if N_t divides s. N_t =
round(N / factor(s)) is set when layer 0 finishes a full step and read anew by every layer, so a step whose new N_t does
not divide s is full in layer 0 only (released code of both; the published FLOPs come out only with this). On other
steps attention is reused and the rest computes int(fresh * layer factor * step factor * share * tokens) tokens. Layer 0
is every site of depth 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...models.decisions import COMPUTE, REUSE
from ...models.spec import ModelSpec
from ..schedule import Schedule

SKIP, PARTIAL, FULL = 0, 1, 2
_DENSE_PERIOD = 2


@dataclass(frozen=True)
class TokenRule:
    """Pairs are the values at both ends, linear in between: of steps at s = 0 and s = S, of layers the first and last.

    period: N, any number above 0. fresh: share of tokens computed, before the factors. shares: kind of site -> its
    factor.
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


def keep_counts(rule: TokenRule, spec: ModelSpec, steps: int) -> NDArray[np.int64]:
    """Tokens that each leaf site computes on a partial step: [S, P]."""
    t = np.arange(steps)
    s = steps - 1 - t if rule.counts_down else t
    sites = [spec.sites[k] for k in spec.leaves]
    by_step = _between(rule.step_factor, s / steps)
    by_layer = _between(rule.layer_factor, np.array([site.depth for site in sites]))
    shares = np.array([rule.shares.get(site.kind, 0.0) for site in sites])
    tokens = np.array([site.tokens for site in sites])
    ratio = rule.fresh * by_step[:, None] * by_layer * shares
    counts: NDArray[np.int64] = (np.clip(ratio, 0.0, 1.0) * tokens).astype(np.int64)
    return counts


def schedule_of(rule: TokenRule, spec: ModelSpec, steps: int, quantize: bool) -> Schedule:
    """The rule's schedule; quantize: counts are rounded up to the sites' quanta, as lowering does.

    Where layer 0 alone is computed and the others are to be skipped, their sites are reused: the released code
    computes layer 0 for later steps and drops its output, which costs the same.
    """
    return assemble(step_work(rule, steps), keep_counts(rule, spec, steps), spec, quantize)


def assemble(by_layer: NDArray[np.int64], counts: NDArray[np.int64], spec: ModelSpec, quantize: bool) -> Schedule:
    """by_layer [S, 2], FULL, PARTIAL or SKIP, and counts [S, P] as a schedule."""
    sites = [spec.sites[k] for k in spec.leaves]
    if quantize:
        quantum = np.array([site.keep_quantum for site in sites])
        counts = -(-counts // quantum) * quantum
    tokens = np.array([site.tokens for site in sites])
    counts = np.where((counts >= tokens) & (counts > 0), COMPUTE, counts)
    does = by_layer[:, [0 if site.depth == 0.0 else 1 for site in sites]]
    work = np.full((len(by_layer), len(spec.sites)), COMPUTE, np.int64)
    work[:, list(spec.leaves)] = np.where(does == FULL, COMPUTE, np.where(does == PARTIAL, counts, REUSE))
    if spec.stack is not None:
        work[by_layer[:, 0] == SKIP, spec.stack] = REUSE
    return Schedule.of(spec, work)


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
