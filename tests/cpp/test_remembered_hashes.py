"""What the C++ runtime remembers of hashes is bounded, best effort, and never takes a changed file as checked."""

from __future__ import annotations

import json
import os
import shutil
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from soda_runtime import BundleError

from tests.runtime.bundles import flip_bit, flip_bit_keeping_time
from tests.runtime.test_hostile_files import impatient

from .library import Library

__all__ = ["impatient"]


def _memory(folder: Path) -> Path:
    """verified.json of the test's own cache, its folder made."""
    memory = folder.parent / "cache" / "soda_runtime" / "verified.json"
    memory.parent.mkdir(parents=True)
    return memory


def test_weights_written_in_place_with_their_old_time_are_hashed_again(library: Library, folder: Path) -> None:
    weights = folder / "weights.safetensors"
    library.open(folder, backend="null")
    flip_bit_keeping_time(weights)
    with pytest.raises(BundleError, match="SHA-256"):
        library.open(folder, backend="null")


def test_others_entries_stay_and_the_memory_is_bounded(library: Library, folder: Path) -> None:
    memory = _memory(folder)
    other = {f"/dead/mount/{i}": ["0" * 64, 1, 1, 1, 1] for i in range(2000)}
    memory.write_text(json.dumps(other))
    library.open(folder, backend="null")
    known = json.loads(memory.read_text())
    assert len(known) == 1000
    assert known.pop(str(folder / "weights.safetensors"))
    assert known.items() <= other.items()


@pytest.mark.usefixtures("impatient")
def test_a_pipe_in_place_of_the_memory_hangs_nobody(library: Library, folder: Path) -> None:
    os.mkfifo(_memory(folder))
    for _ in range(2):
        library.open(folder, backend="null")


def test_no_scratch_files_stay(library: Library, folder: Path) -> None:
    memory = _memory(folder)
    left = memory.with_name("verified.json.1.2.tmp")  # of a writer that was killed
    left.write_text("")
    os.utime(left, (0, 0))
    memory.mkdir()  # what cannot be replaced
    library.open(folder, backend="null")
    memory.rmdir()
    library.open(folder, backend="null")
    assert [path.name for path in memory.parent.iterdir()] == ["verified.json"]


def test_a_user_without_a_home_opens_bundles(
    library: Library, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    library.open(folder, backend="null")
    assert not (folder.parent / "cache").exists()


def test_a_file_replaced_while_it_is_hashed_is_not_remembered(library: Library, folder: Path) -> None:
    weights, stop = folder / "weights.safetensors", threading.Event()
    good, bad = (shutil.copy(weights, folder.parent / name) for name in ("good", "bad"))
    flip_bit(bad, -1)

    def replace() -> None:
        while not stop.is_set():
            for source in (good, bad):
                shutil.copy(source, folder.parent / "next")
                (folder.parent / "next").replace(weights)

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        for _ in range(200):
            with suppress(BundleError):
                library.open(folder, backend="null")
    finally:
        stop.set()
        thread.join()
    with pytest.raises(BundleError, match="SHA-256"):
        library.open(folder, backend="null")
