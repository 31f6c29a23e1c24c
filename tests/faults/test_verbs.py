"""Verbs that are killed, on full disks, in places that are read-only, and after the clock has jumped.

They leave whole outputs or none and name the place in one line, and the next run finishes. In one file, since the
process that runs them takes a while to get warm. benchmarks/kill_builds.py kills 1,000, benchmarks/full_disk.py takes
every page and every file in turn.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from .cases import CASES
from .conftest import ReadOnly
from .full_disk import fill, mounted
from .kills import Campaign
from .places import Places

_BY_NAME = {case.name: case for case in CASES}
_QUICK = [case for case in CASES if case.name not in ("build: openvino", "build: best", "sweep: bench")]


@pytest.mark.parametrize("number", range(len(_QUICK)), ids=[case.name for case in _QUICK])
def test_a_killed_verb_leaves_no_half_written_file_and_the_next_run_finishes(places: Places, number: int) -> None:
    kill = Campaign(places, seed=number).kill(_QUICK[number], number, by_clock=number % 3 == 0)
    assert kill.died or number % 3 == 0


@pytest.fixture
def disk_folder(tmp_path: Path) -> Path:
    """Where a small disk can be mounted."""
    try:
        with mounted(tmp_path):
            return tmp_path
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small disk is not allowed here")


@pytest.mark.parametrize(
    ("name", "limits"),
    [
        ("build", {"pages": 3}), ("build", {"pages": 30}), ("build", {"pages": 70}),
        ("build", {"files": 12}), ("build: pack over another bundle", {"files": 2}),
        ("build: compile on", {"pages": 8}), ("profile", {"pages": 4}),
        ("run: png", {"files": 0}), ("convert", {"pages": 5}), ("sweep", {"pages": 4}),
    ],
)  # fmt: skip
def test_a_full_disk_is_named_in_one_line_and_the_next_run_finishes(
    places: Places, disk_folder: Path, name: str, limits: dict[str, int]
) -> None:
    assert fill(places, _BY_NAME[name], disk_folder, **limits), "the room was enough"


@pytest.mark.parametrize("name", ["build", "profile", "plan", "run: png", "convert", "import", "sweep"])
def test_a_read_only_place_is_named_in_one_line(places: Places, tmp_path: Path, read_only: ReadOnly, name: str) -> None:
    place = places.prepare(_BY_NAME[name], tmp_path / "place")
    read_only(place)
    done = places.run(_BY_NAME[name], place)
    line = done.error.strip().splitlines()[-1]
    assert done.code == 2, done.error
    assert line.startswith("soda-export: ")
    assert line.count("Read-only file system") == 1
    assert "Traceback" not in done.error
    named = line.removeprefix("soda-export: ").removeprefix("--out ").partition(":")[0]
    assert place in ((place / named).resolve(), *(place / named).resolve().parents)


@pytest.mark.parametrize("years", [-30.0, 30.0])
def test_stages_and_bundles_of_another_time_are_taken_as_they_are(places: Places, tmp_path: Path, years: float) -> None:
    case = _BY_NAME["build"]
    place = places.prepare(case, tmp_path / "place")
    assert places.run(case, place).code == 0
    for path in place.rglob("*"):
        os.utime(path, (time.time() + years * 365 * 86400.0,) * 2)
    again = places.run(case, place)
    assert again.code == 0, again.error
    assert "up to date" in again.error
    assert again.error.count("taken from") == 5
