"""Play schedules on calibration seeds and measure how far the final sample moves: what `best` decides by."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from soda_runtime.philox import INITIAL_STREAM, normal
from torch import Tensor

from ..eager.reference import run_reference
from ..lower.lower import lower_plan, round_keeps
from ..models.denoiser import Denoiser, LabelRows, Prepared, TextRows, call_denoiser
from ..models.identity import SamplerIdentity, TokenScore, identify, rows_per_sample
from ..plan.plan import Plan
from ..plan.schedule import Schedule
from ..sampler import FittingSampler, SamplerTable, Stepper, guide
from .journal import Journal

SEED = 1  # profiling uses 0 by default, evaluation its own range: planning sees neither


class Trials:
    """A batch of calibration samples; every schedule is measured on the same noise and conditions.

    samples: their numbers, each with noise and a condition of its own.
    fit: whether the sampler's coefficients are fitted to each schedule on these samples (sampler/fit.py), each of which
    counts by its weight; default alike.
    journal: every measurement is appended to this file, and taken from it if it is there: a search that was stopped
    replays what it had done in no time and goes on.
    """

    def __init__(
        self, denoiser: Denoiser, sampler: SamplerTable, identity: SamplerIdentity, guidance: float,
        calibration: Callable[[Sequence[int]], LabelRows | TextRows], samples: Sequence[int],
        token_score: TokenScore = "mean", journal: Journal | None = None, fit: bool = False,
        weights: NDArray[np.float64] | None = None,
    ) -> None:  # fmt: skip
        self.denoiser, self.sampler, self.guidance = denoiser, sampler, guidance
        self._identity, self._token_score, self._calibration = identity, token_score, calibration
        self.rows, self.samples = rows_per_sample(guidance), tuple(samples)
        self.condition = calibration(self.samples)
        self.noise = self._noise(INITIAL_STREAM)
        self.step_noise = (
            torch.stack([self._noise(1 + t) for t in range(sampler.steps)]) if sampler.stochastic else None
        )
        self.journal, self.fit, self._weights = Journal() if journal is None else journal, fit, weights
        self._states: list[Tensor] = []
        self._fitted: dict[str, SamplerTable] = {}

    def with_samples(self, samples: Sequence[int], weights: NDArray[np.float64] | None = None) -> Trials:
        """The same with other samples."""
        return Trials(
            self.denoiser, self.sampler, self._identity, self.guidance, self._calibration, samples,
            self._token_score, self.journal, self.fit, weights,
        )  # fmt: skip

    def seconds_a_call(self) -> float:
        """How long one model call takes for these samples: the shorter of two, since the first one warms up."""
        prepared = Prepared(self.denoiser, self.sampler.timesteps, self.condition)
        state = self.sampler.begin(self.noise)

        def call() -> float:
            started = time.perf_counter()
            self.advance(prepared, 0, state)
            return time.perf_counter() - started

        return min(call(), call())

    def plan(self, schedule: Schedule) -> Plan:
        """The schedule as a plan for this model and sampler."""
        spec = self.denoiser.spec
        return Plan(identify(spec), self._identity, self.guidance, schedule, self._token_score)

    def rmse(self, schedule: Schedule) -> float:
        """Root of the mean squared error of the final latents, over samples and elements."""
        return float(np.sqrt(self.squared_errors(schedule).mean()))

    def typical_error(self, schedule: Schedule) -> float:
        """Mean over samples of each one's RMSE: rare samples that end elsewhere do not decide, as they do in rmse."""
        return float(np.sqrt(self.squared_errors(schedule)).mean())

    def squared_errors(self, schedule: Schedule) -> NDArray[np.float64]:
        """Mean squared error of each sample's final latents: [B]."""
        key = self._schedule_key(schedule)
        known = self.journal.get(key)
        if known is None:
            fitting = self._fitting(schedule) if self.fit else None
            known = mean_squares(self.play(schedule, fitting or self.sampler) - self.states[-1][0])
            self.journal.add(key, known)
            if fitting:
                self._fitted[key] = fitting.fitted
        return np.array(known)

    def play(self, schedule: Schedule, stepper: Stepper) -> Tensor:
        """The final latents [B, C, H, W] of the schedule."""
        table = lower_plan(self.plan(schedule), self.denoiser.spec)
        return run_reference(self.denoiser, stepper, table, self.condition, self.noise, self.step_noise)

    def fit_sampler(self, schedule: Schedule) -> SamplerTable:
        """The sampler with coefficients that are fitted to the schedule."""
        key = self._schedule_key(schedule)
        if key not in self._fitted:
            fitting = self._fitting(schedule)
            self.play(schedule, fitting)
            self._fitted[key] = fitting.fitted
        return self._fitted[key]

    def fitting(self, renews: Sequence[bool]) -> FittingSampler:
        """A sampler to be fitted on these samples. renews: whether each step's prediction is a new one."""
        weights = None if self._weights is None else torch.from_numpy(self._weights)
        return FittingSampler(self.sampler, self.states, renews, weights)

    def _fitting(self, schedule: Schedule) -> FittingSampler:
        return self.fitting(schedule.renews(self.denoiser.spec, self.rows))

    def _schedule_key(self, schedule: Schedule) -> str:
        rounded = round_keeps(schedule, self.denoiser.spec)
        return self.key_of(rounded.kept.tobytes() + rounded.stack.tobytes())

    def key_of(self, what: bytes) -> str:
        """What the journal knows a measurement of `what` on these samples by."""
        fit = f"fitted {self._weights}".encode() if self.fit else b""
        return hashlib.sha256(fit + repr(self.samples).encode() + what).hexdigest()

    @property
    def states(self) -> list[Tensor]:
        """The sampler's state before each step and after the last, everything computed: S + 1 of [n, B, C, H, W]."""
        if not self._states:
            prepared = Prepared(self.denoiser, self.sampler.timesteps, self.condition)
            self._states = [self.sampler.begin(self.noise)]
            for step in range(self.sampler.steps):
                self._states.append(self.advance(prepared, step, self._states[-1]))
        return self._states

    @torch.no_grad()
    def advance(
        self, prepared: Prepared, step: int, state: Tensor,
        module_output: Callable[[int, str, Callable[[], Tensor]], Tensor] | None = None,
        output: Tensor | None = None, stepper: Stepper | None = None,
    ) -> Tensor:  # fmt: skip
        """The state after a step: everything computed, or with module outputs or the prediction supplied."""
        stepper = stepper or self.sampler
        if output is None:
            latents = torch.cat([stepper.model_input(step, state)] * self.rows)
            compute = module_output or self.computed(prepared)
            output, _ = call_denoiser(self.denoiser, latents, prepared.conditioning(step), compute)
        noise = None if self.step_noise is None else self.step_noise[step]
        return stepper.advance(step, state, self.guided(output), noise)

    def guided(self, output: Tensor) -> Tensor:
        """Predictions of all rows -> one for each sample."""
        channels = self.denoiser.spec.latent_shape[0]
        return guide(output, self.rows, self.guidance, self._identity.guided_channels or channels, channels)

    def computed(self, prepared: Prepared) -> Callable[[int, str, Callable[[], Tensor]], Tensor]:
        """Module outputs by computing them."""

        def compute(layer: int, name: str, inputs_of: Callable[[], Tensor]) -> Tensor:
            made: Tensor = self.denoiser.module(layer, name)(inputs_of(), *prepared.context(layer, name))
            return made

        return compute

    def _noise(self, stream: int) -> Tensor:
        shape = self.denoiser.spec.latent_shape
        noise = np.stack([normal(SEED, stream, sample, math.prod(shape)) for sample in self.samples])
        return torch.from_numpy(noise.reshape(len(self.samples), *shape))


def mean_squares(difference: Tensor) -> list[float]:
    """Mean square of each sample's elements."""
    squares: list[float] = (difference**2).mean(dim=(1, 2, 3)).double().tolist()
    return squares
