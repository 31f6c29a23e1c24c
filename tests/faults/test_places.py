"""Places that cannot be written, and what other hosts and killed writers left there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from soda_runtime import Session
from soda_runtime.scratch import is_abandoned, owner

from soda_export.errors import UsageError
from soda_export.files import naming, replacing, write_whole
from soda_export.search.journal import Journal
from soda_export.workbench.stages import StageStore
from tests.runtime.bundles import GOLDEN, golden_request, golden_results

from .conftest import ReadOnly

_YEAR = 365 * 86400.0


def test_a_read_only_home_hinders_nobody(tmp_path: Path, read_only: ReadOnly, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    read_only(home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(home))
    latents = Session.open(GOLDEN, threads=1).generate(**golden_request(GOLDEN))
    assert np.allclose(latents, golden_results(GOLDEN)["latents"], atol=1e-3)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no /dev/full")
@pytest.mark.parametrize("words", [("--version",), ("inspect", str(GOLDEN), "--json")])
def test_a_full_disk_behind_the_output_is_said_in_one_line(words: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "soda_export", *words]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (2, "soda-export: standard output: No space left on device\n")


def test_temporary_files_of_killed_writers_are_swept_and_those_of_living_ones_are_not(tmp_path: Path) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    living = f".plan.json.{owner()}.tmp"
    dead = living.replace(f"-{os.getpid()}-", f"-{process.pid}-")
    foreign = living.replace(living.split(".")[3].split("-")[0], "01234567")
    for name in (living, dead, foreign, ".plan.json.0a1b2c3d.tmp", ".other.json.0a1b2c3d.tmp"):
        (tmp_path / name).touch()
    os.utime(tmp_path / ".plan.json.0a1b2c3d.tmp", (1e9, 1e9))  # an earlier version's, long ago
    write_whole(tmp_path / "plan.json", b"{}")
    assert {path.name for path in tmp_path.iterdir()} == {"plan.json", living, foreign, ".other.json.0a1b2c3d.tmp"}


@pytest.mark.parametrize("years", [-30.0, 30.0])
def test_what_another_host_left_is_swept_though_the_clock_was_put_back(tmp_path: Path, years: float) -> None:
    left = tmp_path / "tmp-01234567-1-0-stage"
    left.mkdir()
    StageStore(tmp_path)
    assert left.exists()
    os.utime(left, (time.time() + years * _YEAR,) * 2)
    assert is_abandoned(left, "01234567-1-0")
    StageStore(tmp_path)
    assert not left.exists()


def test_a_long_name_has_room_for_its_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / ("ö" * 120 + ".plan.json")
    write_whole(path, b"{}")
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_a_journal_whose_last_line_was_cut_off_keeps_what_follows(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path).add("a", [1.0])
    with path.open("a") as file:
        file.write('12\n["x"]\n{"key": "b", "val')
    journal = Journal(path)
    assert (journal.get("a"), journal.get("b")) == ([1.0], None)
    journal.add("c", [3.0])
    assert Journal(path).get("c") == [3.0]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device"), "place: cannot be written (No space left on device); free some"),
        (OSError(28, "No space left on device", "/source", None, "/target"), "/target: cannot be written"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "place: cannot be written (No space"),
        (OSError(30, "Read-only file system", "place/x"), "place: cannot be written (Read-only file system)"),
    ],
    ids=["a write", "a copy", "a library's own", "read-only"],
)
def test_an_error_of_the_file_system_names_where_was_written_to(error: Exception, said: str) -> None:
    with pytest.raises(UsageError) as raised, naming(Path("place")):
        raise error
    assert str(raised.value).startswith(said)


def test_an_error_about_what_is_read_stays(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), naming(tmp_path):
        (tmp_path.parent / "absent").read_bytes()
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "x"):
        1 / 0  # noqa: B018
