"""Which step of a bundle a timestep is."""

from __future__ import annotations

import pytest
from soda_runtime import RequestError

from soda_export.pipelines.progress import Progress

PNDM = (901.0, 801.0, 801.0, 701.0)
"""A sampler that calls the model twice with its second timestep."""


def follow(timesteps: tuple[float, ...]) -> Progress:
    return Progress(timesteps, "bundle", "ddim", len(timesteps))


def test_runs_follow_one_another_step_by_step() -> None:
    progress = follow(PNDM)
    for _ in range(2):
        taken = [progress.take(timestep, 0.0) for timestep in PNDM]
        assert taken == [(0, True), (1, False), (2, False), (3, False)]


def test_a_run_begins_anew_at_the_first_timestep_whenever_it_comes() -> None:
    progress = follow((900.0, 600.0, 300.0))
    assert progress.take(900.0, 0.0) == (0, True)
    assert progress.take(600.0, 0.0) == (1, False)
    assert progress.take(900.0, 0.0) == (0, True)


def test_a_run_begins_later_where_none_is_under_way() -> None:
    progress = follow((900.0, 600.0, 300.0))
    assert [progress.take(t, 0.0) for t in (600.0, 300.0, 300.0, 900.0)] == [
        (1, True), (2, False), (2, True), (0, True),
    ]  # fmt: skip


def test_a_step_that_is_left_out_is_refused_until_reset() -> None:
    progress = follow((900.0, 600.0, 300.0))
    progress.take(900.0, 0.0)
    with pytest.raises(RequestError, match=r"timestep 300 is its step 2, and step 1 is next \(timestep 600\)"):
        progress.take(300.0, 0.0)
    assert progress.take(300.0, 0.0) == (2, True)  # what was under way is forgotten
    progress.take(900.0, 0.0)
    progress.reset()
    assert progress.take(600.0, 0.0) == (1, True)


def test_timesteps_are_as_exact_as_their_type() -> None:
    progress = follow((750.5, 749.0))
    with pytest.raises(RequestError, match=r"timestep 752 is none of its 2 \(750\.5, 749, \.\.\): give num_inference"):
        progress.take(752.0, 0.0)
    assert progress.take(752.0, 2**-8) == (0, True)  # of bfloat16
    assert progress.take(748.0, 2**-8) == (1, False)
