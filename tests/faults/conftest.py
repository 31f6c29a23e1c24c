"""One warm process, and what cases need, for all tests of faults; folders that nobody can write to."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .cases import make_stock
from .places import Places
from .verbs import Verbs

ReadOnly = Callable[[Path], None]


@pytest.fixture(scope="session")
def places(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    """Folders to run cases in."""
    folder = tmp_path_factory.mktemp("faults")
    verbs = Verbs(tiny_model)
    try:
        make_stock(verbs, tiny_model, folder / "stock")
        (folder / "places").mkdir()
        yield Places(verbs, tiny_model, folder / "stock", folder / "places")
    finally:
        verbs.close()


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
