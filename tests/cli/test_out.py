"""--out: files take their place whole, and only over files of their own kind."""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path

import pytest

from soda_export.errors import UsageError
from soda_export.files import KINDS, check_out, write_whole
from soda_export.plan.plan import plan_text


def test_nothing_inside_a_bundle_is_written(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"format": "soda-bundle", "version": 4, "files": {"plan.json": {}}}')
    (tmp_path / "plan.json").write_text('{"format": "soda-plan"}')
    (tmp_path.parent / "link").symlink_to(tmp_path)
    for folder in (tmp_path, tmp_path.parent / "link"):
        for name in ("manifest.json", "plan.json", "new.json"):
            with pytest.raises(UsageError, match="inside a bundle"):
                check_out(folder / name, "a plan")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content", [b"thesis", b"{}", b"[1]", b'{"format": "x"}', b"\xff" * 20, b"[" * 9999, b"null"])
def test_a_file_of_another_kind_is_not_overwritten(tmp_path: Path, kind: str, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(UsageError, match=f"is not {kind}"):
        check_out(tmp_path / "x", kind)


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("a schedule of another tool", b'{"attn": [1, 0], "ff": [1, 1]}'),
        ("a schedule of another tool", b'{"cache_config": {"steps_computation_mask": [1, 0], "n": 2}}'),
        ("a .png picture", b"\x89PNG..."),
        ("a .npy array", b"\x93NUMPY..."),
        ("a .svg picture", b"<?xml?><svg>"),
        ("a page of soda-export bench", b"# x\n\nMedians of 9 rounds"),
        ("a plan", b""),
    ],
)
def test_a_file_of_the_same_kind_or_an_empty_one_is(tmp_path: Path, kind: str, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    check_out(tmp_path / "x", kind)


def test_special_files_are_written_to_or_refused_and_never_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    check_out(pipe, "a plan")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_whole(pipe, b"plan")
    reader.join()
    assert read == [b"plan"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    write_whole(Path("/dev/null"), b"plan")
    assert Path("/dev/null").is_char_device()
    with pytest.raises(UsageError, match="is a folder"):
        check_out(tmp_path, "a plan")


def test_a_link_stays_and_its_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_whole(tmp_path / "link", b"1")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"1"


@pytest.mark.parametrize(
    "words",
    [
        ("plan", "--model", "digits", "--budget", 17),
        ("profile", "--model", "digits"),
        ("import", "mask.txt", "--from", "cache-dit", "--model", "digits"),
        ("export", "plan.json", "--to", "cache-dit"),
        ("run", "bundle", "--labels", 1),
        ("bench", "bundle"),
    ],
)
def test_an_out_inside_a_bundle_is_refused_before_any_work(soda, tiny_bundle, tmp_path: Path, words) -> None:
    (tmp_path / "mask.txt").write_text("1" * 50)
    (tmp_path / "plan.json").write_bytes(plan_text(tiny_bundle.plan))
    (tmp_path / "bundle").symlink_to(tiny_bundle.out)
    place = tiny_bundle.out / ("new.png" if words[0] in ("run", "bench") else "manifest.json")
    before = json.loads((tiny_bundle.out / "manifest.json").read_bytes())
    code, out, err = soda(*words, "--plot" if words[0] == "bench" else "--out", place)
    assert (code, out) == (2, "")
    assert "lies inside a bundle" in err
    assert err.count("\n") == 1
    assert json.loads((tiny_bundle.out / "manifest.json").read_bytes()) == before


def test_a_sweep_takes_no_folder_with_other_files(soda, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("mine")
    words = ("sweep", "--model", "digits", "--planners", "uniform", "--flops-ratios", 2)
    code, _, err = soda(*words, "--out", tmp_path)
    assert code == 2
    assert "holds no sweep" in err
    assert (tmp_path / "table.csv").read_text() == "mine"
    assert "Traceback" not in err
