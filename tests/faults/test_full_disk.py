"""On a full disk a verb says in one line which place is full, and leaves what it wrote whole or not there.

benchmarks/full_disk.py takes every page and every file in turn.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from .cases import CASES
from .full_disk import fill, mounted
from .places import Places

_BY_NAME = {case.name: case for case in CASES}


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
