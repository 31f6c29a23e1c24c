"""A killed verb leaves whole outputs or none, and the next run finishes. benchmarks/kill_builds.py kills 1,000."""

from __future__ import annotations

import pytest

from .cases import CASES
from .kills import Campaign
from .places import Places

_QUICK = [case for case in CASES if case.name not in ("build: openvino", "build: best", "sweep: bench")]


@pytest.mark.parametrize("number", range(len(_QUICK)), ids=[case.name for case in _QUICK])
def test_a_killed_verb_leaves_no_half_written_file_and_the_next_run_finishes(places: Places, number: int) -> None:
    kill = Campaign(places, seed=number).kill(_QUICK[number], number, by_clock=number % 3 == 0)
    assert kill.died or number % 3 == 0
