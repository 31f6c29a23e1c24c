"""A bundle replaced, moved or written to while it is open is never played as another; opening one that is being
replaced gives one of the two."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from soda_runtime import Bundle, BundleError, EngineError

from .bundles import GOLDEN_V4, GOLDEN_V5, copy_golden, edit_manifest, fix_hashes, golden_request, may_raise, put

BACKENDS = ["ort", "openvino"]


def other_bundle(folder: Path) -> Path:
    """The same files but for other weights."""
    copy_golden(folder, GOLDEN_V5)
    weights = folder / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    begin = 8 + int.from_bytes(content[:8], "little")
    values = np.frombuffer(content, np.float32, offset=begin)
    values[:] = values * np.float32(1.5)
    weights.write_bytes(content)
    fix_hashes(folder)
    return folder


@contextmanager
def replaced_all_the_time(folder: Path) -> Iterator[Path]:
    """A link that leads to folder/a and folder/b in turn, changed by another thread as fast as it can."""
    link, stop = folder / "bundle", threading.Event()
    link.symlink_to("a")

    def replace() -> None:
        i = 0
        while not stop.is_set():
            i += 1
            (folder / "next").symlink_to("ab"[i % 2])
            (folder / "next").replace(link)

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        yield link
    finally:
        stop.set()
        thread.join()


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """An engine library."""
    name = str(request.param)
    pytest.importorskip({"ort": "onnxruntime"}.get(name, name))
    return name


def test_a_bundle_replaced_while_it_is_open_says_so(tmp_path: Path, backend: str) -> None:
    folder = copy_golden(tmp_path / "bundle", GOLDEN_V5)
    bundle = Bundle.open(folder, backend=backend, threads=1)
    folder.rename(tmp_path / "old")
    other_bundle(tmp_path / "new").rename(folder)
    with pytest.raises(BundleError, match="the bundle was replaced; open it again"):
        bundle.session().generate(**golden_request(GOLDEN_V5))
    Bundle.open(folder, backend=backend, threads=1).session().generate(**golden_request(GOLDEN_V5))


def test_a_bundle_removed_while_it_is_open_says_so(tmp_path: Path, backend: str) -> None:
    folder = copy_golden(tmp_path / "bundle", GOLDEN_V5)
    bundle = Bundle.open(folder, backend=backend, threads=1)
    shutil.rmtree(folder)
    with pytest.raises(BundleError, match="the bundle was replaced; open it again"):
        bundle.session().generate(**golden_request(GOLDEN_V5))


def test_a_session_whose_engines_are_open_plays_on(tmp_path: Path) -> None:
    folder = copy_golden(tmp_path / "bundle", GOLDEN_V5)
    session = Bundle.open(folder, backend="ort", threads=1).session()
    expected = session.generate(**golden_request(GOLDEN_V5))
    folder.rename(tmp_path / "old")
    other_bundle(tmp_path / "new").rename(folder)
    assert np.array_equal(session.generate(**golden_request(GOLDEN_V5)), expected)


def test_a_tokenizer_replaced_while_the_bundle_is_open_says_so(text_folder: Path) -> None:
    pytest.importorskip("tokenizers")
    bundle = Bundle.open(text_folder, backend="null")
    path = text_folder / "tokenizer.json"
    other = path.with_name("other")
    shutil.copy(path, other)
    other.replace(path)
    with pytest.raises(BundleError, match="the bundle was replaced"):
        bundle.session().start(prompt="a red circle")


CHANGED = """
import os, sys
from soda_runtime import Bundle, BundleError
from tests.runtime.bundles import GOLDEN_V5, golden_request
folder, change = sys.argv[1:]
session = Bundle.open(folder, backend="ort", threads=1).session()
session.generate(**golden_request(GOLDEN_V5))
if change == "truncate":
    os.truncate(folder + "/weights.safetensors", 100)
else:
    with open(folder + "/weights.safetensors", "r+b") as file:
        file.write(b"x")
try:
    session.generate(**golden_request(GOLDEN_V5))
except BundleError as error:
    assert "written to while the bundle is open" in str(error), error
    sys.exit(17)
"""


@pytest.mark.parametrize("change", ["truncate", "write"])
def test_weights_written_to_in_place_are_noticed_before_the_next_request(tmp_path: Path, change: str) -> None:
    """In a process of its own, which a page behind the end of the file would end."""
    pytest.importorskip("onnxruntime")
    folder = copy_golden(tmp_path / "bundle", GOLDEN_V5)
    done = subprocess.run(
        [sys.executable, "-c", CHANGED, str(folder), change], cwd=Path(__file__).parents[2], capture_output=True,
        text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 17, done.stderr


def test_a_relative_path_outlives_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy_golden(tmp_path / "bundle", GOLDEN_V5)
    monkeypatch.chdir(tmp_path)
    bundle = Bundle.open("bundle", backend="ort", threads=1)
    monkeypatch.chdir("/")
    bundle.session().generate(**golden_request(GOLDEN_V5))


def test_opening_a_bundle_that_is_being_replaced_gives_one_of_the_two(tmp_path: Path) -> None:
    """Whatever moment the replacement comes at; a link is what can be replaced in one step everywhere."""
    for name, golden in (("a", GOLDEN_V4), ("b", GOLDEN_V5)):
        edit_manifest(copy_golden(tmp_path / name, golden), put("builder", value=name))
    with replaced_all_the_time(tmp_path) as link:
        found = {Bundle.open(link, backend="null").manifest.builder for _ in range(60)}
    assert found <= {"a", "b"}


def test_opening_tries_again_where_another_bundle_is_there_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of the old bundle against the manifest of the new one are no damage."""
    folder, new = copy_golden(tmp_path / "bundle", GOLDEN_V5), other_bundle(tmp_path / "new")
    from soda_runtime import opened

    original, times = opened.check_files, []

    def replacing(*arguments: object) -> object:
        if not times:
            folder.rename(tmp_path / "old")
            new.rename(folder)
        times.append(1)
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(opened, "check_files", replacing)
    Bundle.open(folder, backend="null")
    assert len(times) == 2


def test_a_damaged_bundle_is_judged_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from soda_runtime import opened

    folder = copy_golden(tmp_path / "bundle", GOLDEN_V5)
    (folder / "step-00.onnx").write_bytes(b"")
    monkeypatch.setattr(opened.time, "sleep", lambda _: pytest.fail("tried again"))
    with pytest.raises(BundleError, match=r"step-00\.onnx"):
        Bundle.open(folder, backend="null")


def test_weights_behind_links_play_or_name_the_link(tmp_path: Path, backend: str) -> None:
    folder, blobs = copy_golden(tmp_path / "snapshot", GOLDEN_V5), tmp_path / "blobs"
    blobs.mkdir()
    for i, path in enumerate(sorted(folder.iterdir())):
        path.rename(blobs / str(i))
        path.symlink_to(Path("..") / "blobs" / str(i))
    request = golden_request(GOLDEN_V5)
    if backend == "openvino":
        with pytest.raises(EngineError, match=r"is a symbolic link.*cp -rL"):
            Bundle.open(folder, backend=backend, threads=1).session().generate(**request)
        return
    with may_raise(EngineError, "cp -rL"):  # older releases of ONNX Runtime refuse, too
        latents = Bundle.open(folder, backend=backend, threads=1).session().generate(**request)
        expected = Bundle.open(GOLDEN_V5, backend=backend, threads=1).session().generate(**request)
        assert np.array_equal(latents, expected)
