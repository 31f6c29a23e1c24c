"""Places that cannot be written, and clocks that jump: one line that names the place, and nothing left for ever."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
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

from .cases import CASES
from .places import Places

_BY_NAME = {case.name: case for case in CASES}
_YEAR = 365 * 86400.0
ReadOnly = Callable[[Path], None]


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[ReadOnly]:
    """Make a folder read-only for everyone, the administrator included: by a mount of it."""
    mounted = []

    def make(folder: Path) -> None:
        try:
            subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True, capture_output=True)
            mounted.append(folder)
            subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("mounting is not allowed here")

    yield make
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


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


@pytest.mark.parametrize("years", [-30.0, 30.0])
def test_stages_and_bundles_of_another_time_are_taken_as_they_are(places: Places, tmp_path: Path, years: float) -> None:
    case = _BY_NAME["build"]
    place = places.prepare(case, tmp_path / "place")
    assert places.run(case, place).code == 0
    for path in place.rglob("*"):
        os.utime(path, (time.time() + years * _YEAR,) * 2)
    again = places.run(case, place)
    assert again.code == 0, again.error
    assert "up to date" in again.error
    assert again.error.count("taken from") == 5


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
