"""A toy that schedules are measured on."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
import pytest

from soda_export.eager.model import EagerModel
from soda_export.models.identity import SamplerIdentity
from soda_export.plan.problem import Problem
from soda_export.profile.profile import ProfileSettings, profile_denoiser
from soda_export.sampler import freeze_sampler
from soda_export.search.trial import Trials
from tests.eager.toys import toy_conditions, toy_dit

STEPS = 12
IDENTITY = SamplerIdentity("ddim", STEPS)
SAMPLER = freeze_sampler("ddim", {"_class_name": "DDIMScheduler", "clip_sample": False}, STEPS)


class Clock:
    """Stands still but for model calls. Each takes `a_row` seconds for each of its rows, and from the time `then` on
    `later` times that."""

    def __init__(self, a_row: float, later: float, then: float) -> None:
        self.now, self._a_row, self._later, self._then = 0.0, a_row, later, then

    def __call__(self) -> float:
        return self.now

    def work(self, rows: int) -> None:
        """A call."""
        self.now += rows * self._a_row * (self._later if self.now > self._then else 1.0)


SetClock = Callable[..., Clock]


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> SetClock:
    """(a_row, later, then) -> the clock that planning goes by from now on, on a machine of any load."""

    def use(a_row: float, later: float = 1.0, then: float = 0.0) -> Clock:
        clock, call = Clock(a_row, later, then), EagerModel.call

        def slow(self: EagerModel, latents: object, *args: object, **options: object) -> object:
            clock.work(len(latents))  # type: ignore[arg-type]
            return call(self, latents, *args, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(EagerModel, "call", slow)
        monkeypatch.setattr(time, "perf_counter", clock)
        return clock

    return use


@pytest.fixture(scope="session")
def trials() -> Trials:
    """Four samples of a toy whose sites cost far more than their outputs have numbers, as those of real models do."""
    model = toy_dit()
    sites = [
        msgspec.structs.replace(site, flops=100 * site.flops, kept_flops=tuple(100 * n for n in site.kept_flops))
        for site in model.spec.sites
    ]
    model.spec = msgspec.structs.replace(model.spec, sites=tuple(sites))
    return Trials(model, SAMPLER, IDENTITY, 1.5, toy_conditions(model), range(4))


@pytest.fixture(scope="session")
def problem(trials: Trials, tmp_path_factory: pytest.TempPathFactory) -> Problem:
    settings = ProfileSettings(IDENTITY, 1.5, 4, 7, "cosine", "mean", "fp32", 1 << 30)
    partial = tmp_path_factory.mktemp("profile") / "partial"
    sensitivity = profile_denoiser(
        trials.model, SAMPLER, toy_conditions(trials.model), settings, partial=partial, progress=lambda *_: None
    )
    return Problem(trials.spec, "ddim", STEPS, 1.5, sensitivity)
