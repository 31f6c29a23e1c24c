"""A bundle takes its place whole, for whoever opens it meanwhile, and destroys nothing that is not a bundle."""

from __future__ import annotations

import errno
import json
import shutil
import threading
from pathlib import Path

import pytest

from soda_export.errors import ExportError
from soda_export.workbench import place
from soda_export.workbench.place import check_place, put_in_place, restore


def make_bundle(folder: Path, word: str = "", version: int = 5) -> Path:
    folder.mkdir()
    (folder / "weights.safetensors").write_text(word)
    manifest = {"format": "soda-bundle", "version": version, "files": {"weights.safetensors": {}, "gone.onnx": {}}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_a_damaged_or_old_bundle_and_an_empty_folder_may_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    check_place(tmp_path / "empty")
    check_place(make_bundle(tmp_path / "old", version=1))
    check_place(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "own.safetensors").write_text("mine"), "holds own.safetensors"),
        (lambda folder: (folder / "sub.json").mkdir(), "holds sub.json"),
        (lambda folder: (folder / "manifest.json").write_text('{"name": "app", "files": {}}'), "is not a bundle"),
        (lambda folder: (folder / "manifest.json").write_text("["), "is not a bundle"),
        (lambda folder: (folder / "manifest.json").unlink(), "is not a bundle"),
        (lambda folder: (shutil.rmtree(folder), folder.write_text("x")), "is not a bundle"),
    ],
)
def test_what_is_no_bundle_is_never_replaced(tmp_path: Path, change, message: str) -> None:
    out, new = make_bundle(tmp_path / "out"), make_bundle(tmp_path / "new")
    change(out)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(ExportError, match=message):
        put_in_place(new, out)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("below", ["file/bundle", "file/deep/bundle"])
def test_a_place_below_a_file_is_refused(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ExportError, match="file is not a folder"):
        check_place(tmp_path / below)


@pytest.mark.parametrize("linked", [False, True])
def test_a_bundle_is_there_at_every_moment_of_its_replacement(tmp_path: Path, linked: bool) -> None:
    out = make_bundle(tmp_path / "out")
    if linked:
        out = tmp_path / "link"
        out.symlink_to(tmp_path / "out")
    absent, done = [], threading.Event()

    def look() -> None:
        while not done.is_set():
            if not (out / "manifest.json").is_file():
                absent.append(True)

    watcher = threading.Thread(target=look)
    watcher.start()
    for i in range(200):
        put_in_place(make_bundle(tmp_path / f"new{i}", str(i)), out)
    done.set()
    watcher.join()
    assert absent == []
    assert (out / "weights.safetensors").read_text() == "199"
    assert {path.name for path in tmp_path.iterdir()} == {"out", *(["link"] if linked else [])}


def test_a_kill_between_two_renames_is_mended_by_the_next_build(tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_bundle(tmp_path / ".out.replaced", "old")
    restore(out)
    assert (out / "weights.safetensors").read_text() == "old"
    make_bundle(tmp_path / ".out.replaced", "older")
    restore(out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / "weights.safetensors").read_text() == "old"


def test_a_bundle_in_another_layer_of_the_file_system_stays_and_the_cure_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An overlay renames no folder of a lower layer."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    out, new = make_bundle(tmp_path / "out", "old"), make_bundle(tmp_path / "new", "new")
    monkeypatch.setattr(place, "_exchange", refuse)
    with pytest.raises(ExportError, match=r"another layer of the file system.*`rm -r .*out` first"):
        put_in_place(new, out)
    monkeypatch.setattr(place, "_exchange", lambda *_: False)
    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(ExportError, match=r"`rm -r .*out` first"):
        put_in_place(new, out)
    assert (out / "weights.safetensors").read_text() == "old"
