"""From what was seen to rows: medians with intervals, realization, and the fastest peer that errs no more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from .measure import Seen
from .systems import COMPILED, OURS, REFERENCE

_COVERAGE = 0.95


class Row(msgspec.Struct, frozen=True, omit_defaults=False):
    """One system on one model. latency_s: median from request to latents; low and high hold the true median with 95 %,
    or are the extremes of too few. flops_ratio: ours by the papers' convention, a peer's by the products and attention
    that torch counts. realization: speedup over the same engine computing everything / flops_ratio. rmse: of the
    latents against diffusers in eager float32. judged_rmse: what comparisons go by; that of the same setting on a
    trained model where this one's weights are random. reason: why there is no measurement."""

    system: str
    setting: str
    model: str
    precision: str
    latency_s: float | None = None
    latency_low_s: float | None = None
    latency_high_s: float | None = None
    timed: int = 0
    flops_ratio: float | None = None
    speedup: float | None = None
    realization: float | None = None
    rmse: float | None = None
    relative_rmse: float | None = None
    judged_rmse: float | None = None
    peak_bytes: int | None = None
    open_s: float | None = None
    reason: str = ""

    @property
    def key(self) -> str:
        """As a System's."""
        return f"{self.system} | {self.setting} | {self.precision}"

    @property
    def is_ours(self) -> bool:
        """Whether a bundle of this project was played."""
        return self.system.startswith(OURS)

    @property
    def accelerated(self) -> bool:
        """Whether it leaves anything out."""
        return self.flops_ratio is not None and self.flops_ratio > 1.001


class Verdict(msgspec.Struct, frozen=True):
    """One of our bundles against the fastest peer of equal or lower error. ratio: the peer's latency / ours."""

    model: str
    bundle: str
    latency_s: float
    judged_rmse: float
    peer: str
    peer_latency_s: float
    peer_rmse: float
    ratio: float


def make_rows(model: str, seen: Sequence[Seen], judged: Mapping[str, float] | None = None) -> list[Row]:
    """judged: errors of the same settings elsewhere, by key; None: this model's own errors judge."""
    medians = {one.system.key: float(np.median(one.seconds)) for one in seen if one.seconds}
    return [_row(model, one, medians, judged) for one in seen]


def _row(model: str, one: Seen, medians: Mapping[str, float], judged: Mapping[str, float] | None) -> Row:
    system, base = one.system, medians.get(one.system.baseline)
    start = Row(system.system, system.setting, model, system.precision, reason=one.reason)
    if not one.seconds:
        return start
    latency, (low, high) = medians[system.key], median_interval(one.seconds)
    ratio = one.flops_ratio or None
    speedup = None if base is None else base / latency
    return msgspec.structs.replace(
        start, latency_s=latency, latency_low_s=low, latency_high_s=high, timed=len(one.seconds), flops_ratio=ratio,
        speedup=speedup, realization=speedup / ratio if speedup and ratio and ratio > 1.001 else None, rmse=one.rmse,
        relative_rmse=one.relative_rmse, peak_bytes=one.peak_bytes, open_s=one.open_s,
        judged_rmse=one.rmse if judged is None else judged.get(system.key),
    )  # fmt: skip


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Order statistics that hold the median with 95 % (binomial), the extremes where there are too few."""
    ordered, n = sorted(values), len(values)
    below, total = 0, 0.0
    for k in range(n // 2):
        total += math.comb(n, k) / 2**n
        if 1 - 2 * total < _COVERAGE:
            break
        below = k
    return ordered[below], ordered[n - 1 - below]


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Each of our accelerated bundles against the fastest peer, in any precision, that errs no more."""
    found = []
    for ours in rows:
        if not (ours.is_ours and ours.accelerated and ours.latency_s is not None and ours.judged_rmse is not None):
            continue
        limit = ours.judged_rmse
        rivals = [
            row for row in rows
            if not row.is_ours and row.system != REFERENCE and row.model == ours.model and row.latency_s is not None
            and row.judged_rmse is not None and row.judged_rmse <= limit
        ]  # fmt: skip
        if rivals:
            best = min(rivals, key=lambda row: row.latency_s or math.inf)
            assert best.latency_s is not None
            assert best.judged_rmse is not None
            found.append(
                Verdict(ours.model, ours.key, ours.latency_s, limit, best.key, best.latency_s, best.judged_rmse,
                        best.latency_s / ours.latency_s)
            )  # fmt: skip
    return found


def unaccelerated_verdict(rows: Sequence[Row], model: str) -> Verdict | None:
    """Our fastest engine computing everything against the faster torch.compile in bfloat16 (float32 without one)."""
    timed = [row for row in rows if row.model == model and row.latency_s is not None]
    ours = [row for row in timed if row.is_ours and row.flops_ratio == 1.0]
    compiled = [row for row in timed if row.system == COMPILED]
    compiled = [row for row in compiled if row.precision == "bf16"] or compiled
    if not ours or not compiled:
        return None
    mine, peer = (min(group, key=lambda row: row.latency_s or math.inf) for group in (ours, compiled))
    assert mine.latency_s is not None
    assert peer.latency_s is not None
    return Verdict(
        model, mine.key, mine.latency_s, mine.rmse or 0.0, peer.key, peer.latency_s, peer.rmse or 0.0,
        peer.latency_s / mine.latency_s,
    )  # fmt: skip
