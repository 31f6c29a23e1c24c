"""--plan-seconds is kept by a clock that stands still but for model calls, on machines of any load."""

from __future__ import annotations

import time

import pytest

from soda_export.eager.model import EagerModel
from soda_export.plan.planners import PLANNERS
from soda_export.plan.problem import Problem, Target
from soda_export.search.best import search_best
from soda_export.search.journal import Journal
from soda_export.search.trial import Trials

SECONDS = 30.0
FEW = {name: PLANNERS[name] for name in ("soda", "uniform", "fora", "taylorseer", "skip-fitted", "zeus")}


class Clock:
    """Each model call takes `a_row` seconds for each of its rows, from the middle of the run on `later` times that."""

    def __init__(self, a_row: float, later: float) -> None:
        self.now, self._a_row, self._later = 0.0, a_row, later

    def __call__(self) -> float:
        return self.now

    def work(self, rows: int) -> None:
        self.now += rows * self._a_row * (self._later if self.now > SECONDS / 2 else 1.0)


@pytest.mark.parametrize(("calls", "later"), [(100, 1.0), (200, 2.0), (600, 1.0), (600, 3.0)])
def test_planning_takes_the_seconds_that_it_was_given(
    calls: int, later: float, trials: Trials, problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """calls: of the model, for all samples at once, that fit into the seconds."""
    clock, call = Clock(SECONDS / calls / (2 * len(trials.samples)), later), EagerModel.call

    def slow(self: EagerModel, latents: object, *args: object, **options: object) -> object:
        clock.work(len(latents))  # type: ignore[arg-type]
        return call(self, latents, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(EagerModel, "call", slow)
    monkeypatch.setattr(time, "perf_counter", clock)
    own = trials.with_samples(range(4))
    own.journal, own.fit = Journal(), True
    found = search_best(
        problem, Target(flops_ratio=2.0), own, seconds=SECONDS, max_engines=12, progress=lambda *_: None, planners=FEW
    )
    assert found.measured >= 1
    assert clock.now <= 1.2 * SECONDS
    assert clock.now >= 0.6 * SECONDS
