"""Play schedules on calibration seeds and measure how far the final sample moves: what `best` decides by."""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..eager.conditions import Conditions, text_ports
from ..eager.model import EagerModel
from ..eager.reference import run_reference
from ..eager.sampling import Sampling, run_noise
from ..lower.lower import lower_plan, round_keeps
from ..models.identity import SamplerIdentity, TokenScore, identify
from ..options import PLAN_SEED
from ..plan.plan import Plan
from ..plan.schedule import Schedule
from ..sampler import FittingSampler, SamplerTable, Stepper, can_skip, with_memory
from .held_out import seen_numbers, unseen_numbers
from .journal import Journal
from .objective import LATENTS, Objective

MORE_SAMPLES = 4
"""Times the samples of a search, for what is done once: the last fit, and `gram`'s full runs."""


class OutOfTime(Exception):
    """The deadline of measuring has passed, in the middle of a run."""


class Trials:
    """A batch of calibration samples; every schedule is measured on the same noise and conditions.

    samples: their numbers, each with noise and a condition of its own.
    fit: whether the sampler's coefficients are fitted to each schedule on these samples (sampler/fit.py).
    journal: every measurement is appended to this file, and taken from it if it is there: a search that was stopped
    replays what it had done in no time and goes on.
    deadline: by time.perf_counter(); a step that ends later raises OutOfTime. Default never.
    objective: what errors are of; below, errors of the final latents are this objective's.
    """

    def __init__(
        self, model: EagerModel, sampler: SamplerTable, identity: SamplerIdentity, guidance: float,
        conditions: Conditions, samples: Sequence[int], token_score: TokenScore = "mean",
        journal: Journal | None = None, fit: bool = False, objective: Objective = Objective(),
    ) -> None:  # fmt: skip
        self.model, self.spec, self.sampler, self.guidance = model, model.spec, sampler, guidance
        self._identity, self._token_score, self._conditions = identity, token_score, conditions
        self.journal, self.fit = Journal() if journal is None else journal, fit
        self.rows = model.rows_for(guidance)
        self.prompts = max((len(conditions.positive.get(port.name, ())) for port in text_ports(self.spec)), default=0)
        self.deadline, self.objective = math.inf, objective
        self._take(samples)

    def _take(self, samples: Sequence[int]) -> None:
        self.samples = tuple(samples)
        noise, step_noise = run_noise(PLAN_SEED, self.samples, self.spec.latent_shape, self.sampler)
        inputs = self.model.place(self._conditions.rows(self.samples, self.rows))
        self.sampling = Sampling(
            self.model, inputs, noise, self.guidance, self.rows, self._identity.guided_channels, step_noise
        )
        self._states: list[Tensor] = []
        self._exact: Tensor | None = None
        self._fitted: dict[str, SamplerTable] = {}

    def with_samples(self, samples: Sequence[int]) -> Trials:
        """The same with other samples. Some of these need no full run of their own if there was one of these."""
        other = copy.copy(self)
        other._take(samples)
        if self._states and set(samples) <= set(self.samples):
            chosen = [self.samples.index(sample) for sample in samples]
            other._states = [state[:, chosen] for state in self._states]
        return other

    def seen(self, count: int, first: int = 0) -> Trials:
        """The same with samples that a search may look at (held_out.py)."""
        return self.with_samples(seen_numbers(count, self.prompts, first))

    def unseen(self, count: int) -> Trials:
        """The same with samples that are kept from the search."""
        return self.with_samples(unseen_numbers(count, self.prompts))

    def until(self, deadline: float = math.inf) -> Trials:
        """The same, and what is made of it, with a deadline."""
        other = copy.copy(self)
        other.deadline = deadline
        return other

    @property
    def different_prompts(self) -> int:
        """How many different prompts these samples have; 0 for models without."""
        return len({i % self.prompts for i in self.samples}) if self.prompts else 0

    def seconds_a_call(self) -> float:
        """How long one model call takes for these samples: the shorter of two, since the first one warms up."""
        state = self.sampling.begin(self.sampler)

        def call() -> float:
            started = time.perf_counter()
            self.sampling.advance(self.sampler, 0, state, self.sampling.predict(self.sampler, 0, state)).sum().item()
            return time.perf_counter() - started

        return min(call(), call())

    def plan(self, schedule: Schedule) -> Plan:
        """The schedule as a plan for this model and sampler."""
        return Plan(identify(self.spec), self._identity, self.guidance, schedule, self._token_score)

    def rmse(self, schedule: Schedule) -> float:
        """Root of the mean squared error of the final latents, over samples and elements."""
        return float(np.sqrt(self.squared_errors(schedule).mean()))

    def typical_error(self, schedule: Schedule) -> float:
        """Mean over samples of each one's RMSE: rare samples that end elsewhere do not decide, as they do in rmse."""
        return float(np.sqrt(self.squared_errors(schedule)).mean())

    def squared_errors(self, schedule: Schedule) -> NDArray[np.float64]:
        """Mean squared error of each sample's final latents: [B]."""
        key = self._schedule_key(schedule)

        def measure() -> list[float]:
            fitting = self._fitting(schedule) if self.fit else None
            squares = self.squares(self.play(schedule, fitting or self.unfitted(schedule)))
            if fitting:
                self._fitted[key] = fitting.fitted
            return squares

        return np.array(self.journal.recall(key, measure))

    def squares(self, latents: Tensor) -> list[float]:
        """Squared error [B] of final latents [B, *latent_shape] by the objective, against everything computed."""
        if self._exact is None:
            self._exact = self.objective.view(self.states[-1][0])
        return self.objective.squares(self.objective.view(latents), self._exact)

    def play(self, schedule: Schedule, stepper: Stepper) -> Tensor:
        """The final latents [B, *latent_shape] of the schedule."""
        table, given = lower_plan(self.plan(schedule), self.spec), self.sampling
        return run_reference(
            self.model, stepper, table, given.inputs, given.noise, given.step_noise, observe=self.check_time
        )

    def check_time(self, *_: object) -> None:
        """Raises OutOfTime after the deadline."""
        if time.perf_counter() > self.deadline:
            raise OutOfTime

    def held_out_errors(self, schedule: Schedule, seen: Trials) -> NDArray[np.float64]:
        """Mean squared error of each sample's final latents, [B], with the sampler as the trials of `seen` have it."""
        key = self.key_of(seen._schedule_key(schedule).encode())
        return np.array(
            self.journal.recall(key, lambda: self.squares(self.play(schedule, seen.table_for(schedule))))
        )

    def table_for(self, schedule: Schedule) -> SamplerTable:
        """The sampler fitted to the schedule where these trials fit, else as it is."""
        return self.fit_sampler(schedule) if self.fit else self.unfitted(schedule)

    def fit_sampler(self, schedule: Schedule) -> SamplerTable:
        """The sampler with coefficients that are fitted to the schedule."""
        key = self._schedule_key(schedule)
        if key not in self._fitted:
            fitting = self._fitting(schedule)
            self.play(schedule, fitting)
            self._fitted[key] = fitting.fitted
        return self._fitted[key]

    @property
    def can_skip(self) -> bool:
        """Whether this sampler can take steps that do not call the model."""
        return can_skip(self.sampler)

    def unfitted(self, schedule: Schedule) -> SamplerTable:
        """The sampler as it is; where steps are skipped, they hold the latest prediction."""
        if not any(schedule.skips):
            return self.sampler
        return with_memory(self.sampler, schedule.renews(self.spec, self.rows), schedule.skips)

    def fitting(self, renews: Sequence[bool], skips: Sequence[bool] = ()) -> FittingSampler:
        """A sampler to be fitted on these samples. renews: whether each step's prediction is a new one. skips: whether
        it does not call the model."""
        return FittingSampler(self.sampler, self.states, renews, skips)

    def _fitting(self, schedule: Schedule) -> FittingSampler:
        return self.fitting(schedule.renews(self.spec, self.rows), schedule.skips)

    def _schedule_key(self, schedule: Schedule) -> str:
        return self.key_of(round_keeps(schedule, self.spec).work.tobytes())

    def key_of(self, what: bytes) -> str:
        """What the journal knows a measurement of `what` on these samples by."""
        fit = b"fitted" if self.fit else b""
        by = b"" if self.objective.name == LATENTS else f"{self.objective.name} {self.objective.network}".encode()
        return hashlib.sha256(by + fit + repr(self.samples).encode() + what).hexdigest()

    @property
    def states(self) -> list[Tensor]:
        """The sampler's state before each step and after the last, everything computed: S + 1 of
        [n, B, *latent_shape]."""
        if not self._states:
            self.full_run()
        return self._states

    def full_run(self, progress: Callable[[], None] = lambda: None) -> tuple[list[Tensor], list[Tensor]]:
        """`states`, and the guided predictions, S of [B, *latent_shape], with everything computed."""

        def observe() -> None:
            progress()
            self.check_time()

        self._states, predictions = self.sampling.record(self.sampler, observe)
        return self._states, predictions
