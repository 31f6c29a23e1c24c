"""--plan-seconds is kept, by a clock that stands still but for model calls."""

from __future__ import annotations

import pytest

from soda_export.plan.planners import PLANNERS
from soda_export.plan.problem import Problem, Target
from soda_export.search.best import search_best
from soda_export.search.journal import Journal
from soda_export.search.trial import Trials
from tests.search.conftest import SetClock

SECONDS = 30.0
FEW = {name: PLANNERS[name] for name in ("soda", "uniform", "fora", "taylorseer", "skip-fitted", "zeus")}


@pytest.mark.parametrize(
    ("calls", "later", "then"),
    [(100, 1.0, 0.0), (200, 2.0, 0.5), (600, 1.0, 0.0), (600, 3.0, 0.5), (600, 10.0, 0.6), (600, 10.0, 0.2)],
)
def test_planning_takes_the_seconds_that_it_was_given(
    calls: int, later: float, then: float, trials: Trials, problem: Problem, set_clock: SetClock
) -> None:
    """calls: of the model, for all samples at once, that fit into the seconds. From the share `then` of them on the
    machine is `later` times as slow."""
    clock = set_clock(SECONDS / calls / (2 * len(trials.samples)), later, then * SECONDS)
    own = trials.seen(4)
    own.journal, own.fit = Journal(), True
    found = search_best(
        problem, Target(flops_ratio=2.0), own, seconds=SECONDS, max_engines=12, progress=lambda *_: None, planners=FEW
    )
    assert found.measured >= 1
    assert clock.now <= 1.2 * SECONDS
    assert clock.now >= 0.6 * SECONDS
