"""SODA's offline fine-grained sensitivity (OFS): measure the reuse and prune error of every module, in one pass.

Random generations run with everything computed. At each step, each module's output is compared with its own outputs of
the last nine steps; prune errors come from the same comparison (metric.py) with no further forward.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from soda_runtime.philox import INITIAL_STREAM, normal
from torch import Tensor

from ..eager.tokens import TokenScorer, top_tokens
from ..models.denoiser import Denoiser, LabelRows, Prepared, TextRows, call_denoiser
from ..models.identity import SamplerIdentity, TokenScore, identify, rows_per_sample
from ..models.spec import DenoiserSpec
from ..plan.sensitivity import FORMAT, MAX_INTERVAL, VERSION, MapInfo, Metric, SensitivityMap, half_agreement
from ..sampler import SamplerTable, guide
from .accumulate import ErrorSums
from .metric import reuse_and_prune_errors, token_terms

log = logging.getLogger(__name__)
_BATCH = 8  # samples that run together
Progress = Callable[[int, int], None]
Calibration = Callable[[Sequence[int]], LabelRows | TextRows]
"""What samples first .. last of the profile are conditioned on, row by row."""


def profile_denoiser(
    denoiser: Denoiser, sampler: SamplerTable, calibration: Calibration, *, identity: SamplerIdentity,
    guidance: float, samples: int, seed: int, metric: Metric, token_score: TokenScore, bf16: bool, memory_bytes: int,
    partial: Path, progress: Progress,
) -> SensitivityMap:  # fmt: skip
    """Profile over `samples` generations. bf16: matrix products in bfloat16, faster where the machine has it.

    memory_bytes bounds the history of the last nine steps (fp16): where it would not hold, layers are profiled in
    ranges, each with its own pass. partial: where finished batches are kept across a kill. progress(done, total)
    counts steps. Deterministic for a seed and a number of threads.
    """
    spec, started = denoiser.spec, time.perf_counter()
    info = MapInfo(
        FORMAT, VERSION, identify(spec), identity, guidance, samples, seed,
        metric, token_score,
    )  # fmt: skip
    rows = rows_per_sample(guidance)
    sums = ErrorSums(sampler.steps, spec.num_layers, len(spec.modules))
    sums.load(partial)
    batches = [range(first, min(first + _BATCH, samples)) for first in range(0, samples, _BATCH)]
    units = [(layers, batch) for layers in _layer_ranges(spec, rows, memory_bytes) for batch in batches]
    for number, (layers, batch) in enumerate(units):
        if number < sums.units_done:
            continue

        def advance(steps_done: int, number: int = number) -> None:
            progress(number * sampler.steps + steps_done, len(units) * sampler.steps)

        _Pass(denoiser, sampler, info, calibration, layers, batch, sums, bf16).run(advance)
        sums.units_done = number + 1
        sums.save(partial)
    log.info("profile: %d samples, %d passes in %.1f s", samples, len(units), time.perf_counter() - started)
    return _finish(info, sums)


def _layer_ranges(spec: DenoiserSpec, rows: int, memory_bytes: int) -> list[range]:
    per_layer = MAX_INTERVAL * len(spec.modules) * _BATCH * rows * spec.num_tokens * spec.width * 2
    count = max(1, min(spec.num_layers, memory_bytes // per_layer))
    return [range(first, min(first + count, spec.num_layers)) for first in range(0, spec.num_layers, count)]


class _Pass:
    """One batch of generations, watching one range of layers."""

    def __init__(
        self, denoiser: Denoiser, sampler: SamplerTable, info: MapInfo, calibration: Calibration, layers: range,
        batch: range, sums: ErrorSums, bf16: bool,
    ) -> None:  # fmt: skip
        self.calibration, self.bf16 = calibration, bf16
        self.denoiser, self.sampler, self.info, self.layers, self.sums = denoiser, sampler, info, layers, sums
        self.batch, self.rows = batch, rows_per_sample(info.guidance)
        self.scorer = TokenScorer(info.token_score, self.rows)
        self.history: dict[tuple[int, int], list[Tensor]] = {}  # (layer, module) -> outputs, newest first, fp16
        self.hidden: list[Tensor] = []

    @torch.no_grad()
    def run(self, advance: Callable[[int], None]) -> None:
        spec, sampler = self.denoiser.spec, self.sampler
        prepared = Prepared(self.denoiser, sampler.timesteps, self.calibration(self.batch))
        channels = spec.latent_shape[0]
        guided = self.info.sampler.guided_channels or channels
        state = sampler.begin(self._noise(INITIAL_STREAM))
        for step in range(sampler.steps):
            latents = torch.cat([sampler.model_input(step, state)] * self.rows)

            def module_output(layer: int, name: str, inputs_of: Callable[[], Tensor], step: int = step) -> Tensor:
                inputs = inputs_of()
                y: Tensor = self.denoiser.module(layer, name)(inputs, *prepared.context(layer, name))
                if layer in self.layers:
                    self._compare(step, layer, spec.modules.index(name), inputs, y)
                return y

            with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                output, hidden = call_denoiser(self.denoiser, latents, prepared.conditioning(step), module_output)
            if self.layers.start == 0:
                self._compare_hidden(step, hidden)
            noise = self._noise(1 + step) if sampler.stochastic else None
            output = guide(output.float(), self.rows, self.info.guidance, guided, channels)
            state = sampler.advance(step, state, output, noise)
            advance(step + 1)

    def _noise(self, stream: int) -> Tensor:
        shape = self.denoiser.spec.latent_shape
        rows = [normal(self.info.seed, stream, sample, int(np.prod(shape))) for sample in self.batch]
        return torch.from_numpy(np.stack(rows)).reshape(len(self.batch), *shape)

    def _compare(self, step: int, layer: int, m: int, inputs: Tensor, y: Tensor) -> None:
        older = self.history.setdefault((layer, m), [])
        new = self._by_sample(y.float())
        for interval, stored in enumerate(older, start=1):
            old = stored.float()
            if interval == 1 or self.info.token_score == "cached":  # the other scores do not look at the cache
                order = top_tokens(self.scorer(inputs, old), inputs.shape[1])  # [B, N]
            terms = token_terms(new, self._by_sample(old), self.info.metric)
            errors = reuse_and_prune_errors(terms, order, self.info.metric).numpy()
            self.sums.add_module(step, layer, m, interval, errors)
        older.insert(0, _half(y))
        del older[MAX_INTERVAL:]

    def _compare_hidden(self, step: int, hidden: Tensor) -> None:
        new = self._by_sample(hidden.float())
        for interval, stored in enumerate(self.hidden, start=1):
            terms = token_terms(new, self._by_sample(stored.float()), "cosine")
            self.sums.add_hidden(step, interval, float(terms.double().sum()))
        self.hidden.insert(0, _half(hidden))
        del self.hidden[MAX_INTERVAL:]

    def _by_sample(self, tensor: Tensor) -> Tensor:
        """[G * B, N, D] -> [B, G, N, D]."""
        return tensor.reshape(self.rows, -1, *tensor.shape[1:]).transpose(0, 1)


def _half(tensor: Tensor) -> Tensor:
    """fp16 without infinities."""
    limit = torch.finfo(torch.float16).max
    return tensor.clamp(-limit, limit).half()


def _finish(info: MapInfo, sums: ErrorSums) -> SensitivityMap:
    n = info.samples
    mean = sums.module_sum / n
    spread = np.sqrt(np.maximum(sums.module_squares / n - mean * mean, 0.0))
    hidden = sums.hidden_sum / n
    for step in range(info.sampler.steps):  # no value is older than the run
        mean[step, :, :, step:], spread[step, :, :, step:], hidden[step, step:] = np.nan, np.nan, np.nan
    stability = np.full(MAX_INTERVAL, np.nan)
    if n > 1:
        stability = half_agreement(sums.half_sum, sums.module_sum[..., 0] - sums.half_sum)
    mean32, spread32 = mean.astype(np.float32), spread.astype(np.float32)
    return SensitivityMap(
        info, mean32[..., 0], spread32[..., 0], mean32[..., 1:], spread32[..., 1:], hidden.astype(np.float32),
        stability.astype(np.float32),
    )  # fmt: skip


