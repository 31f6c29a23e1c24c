"""SODA's offline fine-grained sensitivity (OFS): measure the reuse and prune error of every site, in one pass.

Random generations run with everything computed. At each step, each site's outputs are compared with its own outputs of
the last nine steps; prune errors come from the same comparison (metric.py) with no further forward.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..eager.conditions import Conditions
from ..eager.model import EagerModel
from ..models.identity import SamplerIdentity, TokenScore, identify
from ..models.spec import ModelSpec
from ..plan.sensitivity import FORMAT, MAX_INTERVAL, VERSION, MapInfo, Metric, SensitivityMap, half_agreement
from ..sampler import SamplerTable
from .accumulate import ErrorSums
from .estimate import ProfileCost, time_profile
from .generations import WatchedBatch
from .precision import ProfilePrecision, product_type
from .subset import Watched, fit_history

log = logging.getLogger(__name__)
_LINE_SECONDS = 60.0  # between lines of the log where no terminal shows the progress
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ProfileSettings:
    """What is measured, and how. memory_bytes: most that the history of the last nine steps may take."""

    identity: SamplerIdentity
    guidance: float
    samples: int
    seed: int
    metric: Metric
    token_score: TokenScore
    precision: ProfilePrecision
    memory_bytes: int


def profile_denoiser(
    model: EagerModel, sampler: SamplerTable, conditions: Conditions, settings: ProfileSettings, *, partial: Path,
    progress: Progress,
) -> SensitivityMap:  # fmt: skip
    """Profile over generations that take the conditions in turn.

    Where the history (fp16) would not hold for one sample, a random subset of each output's tokens is compared, the
    same at all steps and sites. partial: where finished batches are kept across a kill. progress(done, total) counts
    steps. Deterministic for a seed, a machine and a number of threads.
    """
    started, samples = time.perf_counter(), settings.samples
    model, info, watched = _prepared(model, settings)
    if watched.share < 1.0:
        log.info("profile: %.0f%% of the tokens are compared; more need --profile-memory", 100 * watched.share)
    sums = ErrorSums(sampler.steps, len(model.spec.sites))
    sums.load(partial)
    report = _Reports(progress, sums.samples_done * sampler.steps, samples * sampler.steps)
    for first in range(sums.samples_done, samples, watched.batch):
        batch = range(first, min(first + watched.batch, samples))

        def advance(steps_done: int, batch: range = batch) -> None:
            report(batch.start * sampler.steps + steps_done * len(batch))

        WatchedBatch(model, sampler, info, conditions, batch, watched, sums).run(advance)
        sums.samples_done = batch.stop
        sums.save(partial)
    log.info("profile: %d samples in %.1f s", samples, time.perf_counter() - started)
    return _finish(info, model.spec, sums)


def estimate_profile(
    model: EagerModel, sampler: SamplerTable, conditions: Conditions, settings: ProfileSettings
) -> ProfileCost:
    """What profile_denoiser would take for the same arguments, from its first three model calls."""
    model, info, watched = _prepared(model, settings)
    return time_profile(model, sampler, info, conditions, watched)


def _prepared(model: EagerModel, settings: ProfileSettings) -> tuple[EagerModel, MapInfo, Watched]:
    info = MapInfo(
        FORMAT, VERSION, identify(model.spec), settings.identity, settings.guidance, settings.samples, settings.seed,
        settings.metric, settings.token_score,
    )  # fmt: skip
    rows = model.rows_for(settings.guidance)
    watched = fit_history(model.spec, rows, settings.samples, settings.memory_bytes)
    return model.with_products(product_type(settings.precision, model.device)), info, watched


class _Reports:
    """Passes progress on, and logs it once a minute where no terminal shows it."""

    def __init__(self, progress: Progress, done: int, total: int) -> None:
        self._progress, self._first, self._total = progress, done, total
        self._started = self._last = time.monotonic()

    def __call__(self, done: int) -> None:
        self._progress(done, self._total)
        now = time.monotonic()
        if now - self._last >= _LINE_SECONDS and not sys.stderr.isatty():
            self._last = now
            left = (now - self._started) / max(1, done - self._first) * (self._total - done)
            log.info("profile: %.0f%%, about %.0f min left", 100 * done / self._total, left / 60)


def _finish(info: MapInfo, spec: ModelSpec, sums: ErrorSums) -> SensitivityMap:
    n = info.samples
    mean = sums.sums / n
    spread = np.sqrt(np.maximum(sums.squares / n - mean * mean, 0.0))
    for step in range(info.sampler.steps):  # no value is older than the run
        mean[step, :, step:], spread[step, :, step:] = np.nan, np.nan
    for k, site in enumerate(spec.sites):
        if not site.tokens:
            mean[:, k, :, 1:], spread[:, k, :, 1:] = np.nan, np.nan
    stability = np.full(MAX_INTERVAL, np.nan)
    if n > 1:
        own = [k for k in range(len(spec.sites)) if k != spec.stack]
        stability = half_agreement(sums.half[:, own], (sums.sums[..., 0] - sums.half)[:, own])
    mean32, spread32 = mean.astype(np.float32), spread.astype(np.float32)
    return SensitivityMap(
        info, mean32[..., 0], spread32[..., 0], mean32[..., 1:], spread32[..., 1:], stability.astype(np.float32)
    )
