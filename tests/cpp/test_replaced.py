"""A bundle replaced, moved or written to while the C++ runtime has it open is never played as another."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from soda_runtime import BundleError, EngineError

from tests.runtime.bundles import GOLDEN_V5, copy_golden
from tests.runtime.test_replaced import other_bundle, replaced_all_the_time

from .fields import golden_fields
from .library import ROOT, Library


def test_a_bundle_replaced_or_removed_while_it_is_open_says_so(
    library: Library, backend: str, tmp_path: Path
) -> None:
    folder = copy_golden(tmp_path / "bundle", GOLDEN_V5)
    bundle = library.open(folder, backend=backend, threads=1)
    folder.rename(tmp_path / "old")
    with pytest.raises(BundleError, match="the bundle was replaced; open it again"):
        bundle.session().start(**golden_fields())
    other_bundle(tmp_path / "new").rename(folder)
    with pytest.raises(BundleError, match="the bundle was replaced; open it again"):
        bundle.session().start(**golden_fields())
    library.open(folder, backend=backend, threads=1).session().generate(**golden_fields())


CHANGED = """
import os, sys
from soda_runtime import BundleError
from tests.cpp.fields import golden_fields
from tests.cpp.library import load
folder, backend, change = sys.argv[1:]
session = load().open(folder, backend=backend, threads=1).session()
session.generate(**golden_fields())
if change == "truncate":
    os.truncate(folder + "/weights.safetensors", 100)
else:
    with open(folder + "/weights.safetensors", "r+b") as file:
        file.write(b"x")
try:
    session.start(**golden_fields())
except BundleError as error:
    assert "written to while the bundle is open" in str(error), error
    sys.exit(17)
"""


@pytest.mark.parametrize("change", ["truncate", "write"])
def test_weights_written_to_in_place_are_noticed_before_the_next_request(
    backend: str, tmp_path: Path, change: str
) -> None:
    """In a process of its own, which a page behind the end of the file would end."""
    folder = copy_golden(tmp_path / "bundle", GOLDEN_V5)
    done = subprocess.run(
        [sys.executable, "-c", CHANGED, str(folder), backend, change], cwd=ROOT, capture_output=True, text=True,
        timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 17, done.stderr


def test_a_relative_path_outlives_the_working_directory(
    library: Library, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_golden(tmp_path / "bundle", GOLDEN_V5)
    monkeypatch.chdir(tmp_path)
    bundle = library.open("bundle", backend=backend, threads=1)
    monkeypatch.chdir("/")
    bundle.session().generate(**golden_fields())


def test_opening_a_bundle_that_is_being_replaced_gives_one_of_the_two(library: Library, tmp_path: Path) -> None:
    copy_golden(tmp_path / "a", GOLDEN_V5)
    other_bundle(tmp_path / "b")
    with replaced_all_the_time(tmp_path) as link:
        for _ in range(100):
            library.open(link, backend="null")


def test_weights_behind_links_play_or_name_the_link(library: Library, backend: str, tmp_path: Path) -> None:
    folder, blobs = copy_golden(tmp_path / "snapshot", GOLDEN_V5), tmp_path / "blobs"
    blobs.mkdir()
    for i, path in enumerate(sorted(folder.iterdir())):
        path.rename(blobs / str(i))
        path.symlink_to(Path("..") / "blobs" / str(i))
    session = library.open(folder, backend=backend, threads=1).session()
    if backend == "openvino":
        with pytest.raises(EngineError, match=r"is a symbolic link.*cp -rL"):
            session.start(**golden_fields())
        return
    expected = library.open(GOLDEN_V5, backend=backend, threads=1).session().generate(**golden_fields())
    assert np.array_equal(session.generate(**golden_fields()), expected)
