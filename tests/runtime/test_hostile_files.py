"""A bundle whose files are missing, changed, replaced or lying about themselves is refused when it is opened."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from soda_runtime import Bundle, BundleError, checks
from soda_runtime.checks import verify_hashes

from .bundles import (
    GOLDEN,
    GOLDENS,
    copy_golden,
    edit_manifest,
    fix_hashes,
    flip_bit,
    safetensors_bytes,
    split_safetensors,
)  # fmt: skip

Refuses = Callable[[Path, str], None]
FILES = sorted(path.name for path in GOLDEN.iterdir())
LISTED = [name for name in FILES if name != "manifest.json"]
WEIGHTS_BYTES = (GOLDEN / "weights.safetensors").stat().st_size


@pytest.fixture
def impatient() -> Iterator[None]:
    """Interrupts a test that hangs, as opening a pipe would."""

    def interrupt(*_: object) -> None:
        raise AssertionError("opening the bundle hangs")

    previous = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(folder: Path, refuses: Refuses, name: str) -> None:
    (folder / name).unlink()
    refuses(folder, name)


@pytest.mark.parametrize("name", FILES)
def test_an_emptied_file_is_refused(folder: Path, refuses: Refuses, name: str) -> None:
    (folder / name).write_bytes(b"")
    refuses(folder, name)


@pytest.mark.parametrize("name", FILES)
def test_a_directory_in_place_of_a_file_is_refused(folder: Path, refuses: Refuses, name: str) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()
    refuses(folder, name)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", ["manifest.json", "weights.safetensors", "tables.safetensors", "step-00.onnx"])
def test_a_pipe_in_place_of_a_file_is_refused_without_waiting(folder: Path, refuses: Refuses, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    refuses(folder, name)


@pytest.mark.usefixtures("impatient")
def test_a_pipe_in_place_of_the_folder_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "bundle")
    with pytest.raises(BundleError, match="no such bundle folder; `soda-export build` makes one"):
        Bundle.open(tmp_path / "bundle", backend="null")


@pytest.mark.parametrize("name", FILES)
def test_a_link_to_the_same_file_is_followed(folder: Path, opens: Callable[[Path], None], name: str) -> None:
    """As in the caches of model hubs, where every file is a link to a blob of its hash."""
    blob = (folder / name).rename(folder.parent / "blob")
    (folder / name).symlink_to(Path("..") / blob.name)
    opens(folder)


@pytest.mark.parametrize("name", LISTED)
def test_a_link_to_other_content_is_refused(folder: Path, refuses: Refuses, name: str) -> None:
    blob = (folder / name).rename(folder.parent / "blob")
    flip_bit(blob, -1)
    (folder / name).symlink_to(blob)
    refuses(folder, name)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", ["manifest.json", "weights.safetensors", "tables.safetensors", "step-00.onnx"])
def test_a_link_to_a_pipe_or_a_folder_is_refused(folder: Path, refuses: Refuses, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder.parent / "pipe")
    for target in (folder.parent / "pipe", folder.parent):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)
        refuses(folder, name)


def test_a_link_to_nothing_is_refused(folder: Path, refuses: Refuses) -> None:
    (folder / "weights.safetensors").unlink()
    (folder / "weights.safetensors").symlink_to(folder / "nothing")
    refuses(folder, "weights.safetensors")


@pytest.mark.parametrize("place", ["", "missing", "manifest.json", "nul\0"])
def test_a_folder_that_is_none_is_refused(folder: Path, place: str) -> None:
    target = folder / place if place else folder.parent
    with pytest.raises(BundleError, match=r"manifest.json: missing|no such bundle folder"):
        Bundle.open(target, backend="null")


@pytest.mark.parametrize("name", ["manifest.json", "weights.safetensors", "tables.safetensors", "step-00.onnx"])
def test_a_file_that_cannot_be_opened_is_refused(
    folder: Path, refuses: Refuses, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    original = io.open

    def refusing(path: Any, *arguments: Any, **options: Any) -> Any:
        if path == folder / name:
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, *arguments, **options)

    monkeypatch.setattr(io, "open", refusing)
    refuses(folder, name)


@pytest.mark.parametrize("name", LISTED)
@pytest.mark.parametrize("share", [0.0, 0.37, 1.0])
def test_a_flipped_bit_in_any_file_is_refused(folder: Path, refuses: Refuses, name: str, share: float) -> None:
    flip_bit(folder / name, int(share * ((folder / name).stat().st_size - 1)))
    refuses(folder, name)


@pytest.mark.parametrize("position", [0, 7, 8, 9, 100, 1000, 5000, WEIGHTS_BYTES // 2, WEIGHTS_BYTES - 5, -1])
def test_a_flipped_bit_anywhere_in_the_weights_is_refused(folder: Path, refuses: Refuses, position: int) -> None:
    flip_bit(folder / "weights.safetensors", position)
    refuses(folder, "weights.safetensors")


@pytest.mark.parametrize("name", ["weights.safetensors", "tables.safetensors", "conditioning.onnx", "plan.json"])
@pytest.mark.parametrize("kept", [1, 7, 8, 100, -1])
def test_a_truncated_file_is_refused(folder: Path, refuses: Refuses, name: str, kept: int) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:kept])
    refuses(folder, name)


@pytest.mark.parametrize("name", ["weights.safetensors", "tables.safetensors"])
@pytest.mark.parametrize("kept", [0, 1, 7, 8, 100, -1])
def test_a_truncated_file_with_a_matching_hash_is_refused(folder: Path, refuses: Refuses, name: str, kept: int) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:kept])
    fix_hashes(folder)
    refuses(folder, name)


@pytest.mark.parametrize("name", LISTED)
def test_a_longer_file_is_refused(folder: Path, refuses: Refuses, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes() + b"\0")
    refuses(folder, name)


@pytest.mark.parametrize("name", LISTED)
def test_another_hash_in_the_manifest_is_refused(folder: Path, refuses: Refuses, name: str) -> None:
    edit_manifest(folder, lambda manifest: manifest["files"][name].update(sha256="0" * 64))
    refuses(folder, name)


@pytest.mark.parametrize("size", [0, 1, 10**9, 1 << 63, 10**300])
@pytest.mark.parametrize("name", ["weights.safetensors", "tables.safetensors", "step-05.onnx"])
def test_another_size_in_the_manifest_is_refused(folder: Path, refuses: Refuses, name: str, size: int) -> None:
    edit_manifest(folder, lambda manifest: manifest["files"][name].update(bytes=size))
    refuses(folder, name if size < 1 << 63 else "manifest.json")


def test_two_files_swapped_are_refused(folder: Path, refuses: Refuses) -> None:
    (folder / "step-02.onnx").rename(folder / "scratch")
    (folder / "step-03.onnx").rename(folder / "step-02.onnx")
    (folder / "scratch").rename(folder / "step-03.onnx")
    refuses(folder, "step-02.onnx")


def test_a_flipped_bit_in_a_large_file_is_refused(
    folder: Path, refuses: Refuses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "_SMALL_FILE_BYTES", 1000)
    flip_bit(folder / "tables.safetensors", -1)
    refuses(folder, "tables.safetensors")


@pytest.mark.parametrize("tail", [b"\0", b"\0\0junk", b" \0", b"\0}"])
@pytest.mark.parametrize("name", ["manifest.json", "weights.safetensors", "tables.safetensors"])
def test_bytes_behind_the_json_are_refused(folder: Path, refuses: Refuses, name: str, tail: bytes) -> None:
    path = folder / name
    if name == "manifest.json":
        path.write_bytes(path.read_bytes() + tail)
    else:
        header, data = split_safetensors(path)
        path.write_bytes(safetensors_bytes(json.dumps(header).encode() + tail, data))
        fix_hashes(folder)
    refuses(folder, name)


TEXT_FILES = ["tokenizer.json", "text-encoder.onnx", "text-encoder.safetensors", "decoder.onnx", "decoder.safetensors"]


@pytest.mark.parametrize("name", TEXT_FILES)
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: flip_bit(path, 10), lambda path: path.write_bytes(b"")])
def test_a_damaged_file_of_a_bundle_of_prompts_is_refused(
    text_folder: Path, refuses: Refuses, name: str, damage: Callable[[Path], object]
) -> None:
    damage(text_folder / name)
    refuses(text_folder, name)


def test_a_tokenizer_over_64_mib_is_refused(text_folder: Path, refuses: Refuses) -> None:
    os.truncate(text_folder / "tokenizer.json", (64 << 20) + 1)
    fix_hashes(text_folder)
    refuses(text_folder, "tokenizer.json")


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: golden.name)
def test_verify_hashes_takes_a_golden_bundle(tmp_path: Path, golden: Path) -> None:
    version = json.loads((golden / "manifest.json").read_text())["version"]
    assert verify_hashes(copy_golden(tmp_path / "bundle", golden)).version == version


@pytest.mark.parametrize("name", TEXT_FILES)
def test_verify_hashes_refuses_a_flipped_bit_in_a_bundle_of_prompts(text_folder: Path, name: str) -> None:
    flip_bit(text_folder / name, 10)
    with pytest.raises(BundleError, match=f"{name}: its SHA-256"):
        verify_hashes(text_folder)


@pytest.mark.parametrize("name", LISTED)
def test_verify_hashes_refuses_a_flipped_bit(folder: Path, name: str) -> None:
    flip_bit(folder / name, 10)
    with pytest.raises(BundleError, match=f"{name}: its SHA-256"):
        verify_hashes(folder)
