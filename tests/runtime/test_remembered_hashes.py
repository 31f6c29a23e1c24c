"""The weights are hashed once per file; what is remembered about them can be lost or damaged without harm."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from soda_runtime import Bundle, BundleError, checks
from soda_runtime.checks import verify_hashes

from .bundles import copy_golden, edit_manifest, flip_bit, flip_bit_keeping_time
from .test_hostile_files import impatient

__all__ = ["impatient"]


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were hashed, in order."""
    paths: list[Path] = []
    original = checks.sha256_of

    def recording(path: Path) -> str:
        paths.append(path)
        return original(path)

    monkeypatch.setattr(checks, "sha256_of", recording)
    return paths


def _open(folder: Path) -> None:
    Bundle.open(folder, backend="null")


def test_the_weights_are_hashed_at_the_first_opening_only(folder: Path, hashed: list[Path]) -> None:
    weights = folder / "weights.safetensors"
    _open(folder)
    assert hashed.count(weights) == 1
    _open(folder)
    assert hashed.count(weights) == 1


def test_every_other_file_is_hashed_at_every_opening(folder: Path, hashed: list[Path]) -> None:
    for times in (1, 2):
        _open(folder)
        assert {hashed.count(folder / name) for name in ("tables.safetensors", "step-00.onnx", "plan.json")} == {times}


def test_a_large_file_is_hashed_at_the_first_opening_only(
    folder: Path, hashed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "_SMALL_FILE_BYTES", 10_000)
    for _ in range(2):
        _open(folder)
    assert hashed.count(folder / "step-00.onnx") == 1
    assert hashed.count(folder / "plan.json") == 2


def test_only_the_bundles_own_entry_is_looked_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others may lie on a mount that is dead, where looking hangs."""
    memory = folder.parent / "cache" / "soda_runtime" / "verified.json"
    memory.parent.mkdir(parents=True)
    memory.write_text(json.dumps({"/dead/mount/weights.safetensors": ["0" * 64, 1, 1, 1, 1]}))
    original = os.stat

    def stat(path: object, *arguments: object, **options: object) -> os.stat_result:
        assert not str(path).startswith("/dead")
        return original(path, *arguments, **options)  # type: ignore[arg-type,call-overload,no-any-return]

    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(os.path, "exists", stat)
    _open(folder)
    assert list(json.loads(memory.read_text())) == [
        "/dead/mount/weights.safetensors", str(folder / "weights.safetensors")
    ]  # fmt: skip


def test_the_memory_is_bounded(folder: Path) -> None:
    memory = folder.parent / "cache" / "soda_runtime" / "verified.json"
    memory.parent.mkdir(parents=True)
    memory.write_text(json.dumps({f"/gone/{i}": ["0" * 64, 1, 1, 1, 1] for i in range(2000)}))
    _open(folder)
    known = json.loads(memory.read_text())
    assert len(known) == 1000
    assert str(folder / "weights.safetensors") in known


@pytest.mark.usefixtures("impatient")
def test_a_pipe_in_place_of_the_memory_hangs_nobody(folder: Path) -> None:
    memory = folder.parent / "cache" / "soda_runtime" / "verified.json"
    memory.parent.mkdir(parents=True)
    os.mkfifo(memory)
    _open(folder)
    _open(folder)


def test_a_file_replaced_while_it_is_hashed_is_not_remembered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, original = folder / "weights.safetensors", checks.sha256_of

    def slow(path: Path) -> str:
        found = original(path)
        if path == weights:
            other = folder.parent / "other"
            shutil.copy(weights, other)
            flip_bit(other, -1)
            other.replace(weights)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(checks, "sha256_of", slow)
        with suppress(BundleError):
            _open(folder)
    with pytest.raises(BundleError, match="SHA-256"):
        _open(folder)


def test_no_scratch_files_stay(folder: Path) -> None:
    cache = folder.parent / "cache" / "soda_runtime"
    cache.mkdir(parents=True)
    left = cache / "verified.json.1.2.tmp"  # of a writer that was killed
    left.write_text("")
    os.utime(left, (0, 0))
    (cache / "verified.json").mkdir()  # what cannot be replaced
    _open(folder)
    (cache / "verified.json").rmdir()
    _open(folder)
    assert [path.name for path in cache.iterdir()] == ["verified.json"]


def test_a_user_without_a_home_opens_bundles(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)

    def no_entry(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", no_entry)
    with pytest.raises(RuntimeError):
        Path.home()
    _open(folder)


def test_weights_written_again_are_hashed_again(folder: Path) -> None:
    _open(folder)
    flip_bit(folder / "weights.safetensors", -1)
    with pytest.raises(BundleError, match="SHA-256"):
        _open(folder)


def test_weights_written_in_place_with_their_old_time_are_hashed_again(folder: Path) -> None:
    weights = folder / "weights.safetensors"
    _open(folder)
    flip_bit_keeping_time(weights)
    with pytest.raises(BundleError, match="SHA-256"):
        _open(folder)


def test_another_hash_in_the_manifest_is_not_taken_for_the_remembered_one(folder: Path) -> None:
    _open(folder)
    edit_manifest(folder, lambda manifest: manifest["files"]["weights.safetensors"].update(sha256="0" * 64))
    with pytest.raises(BundleError, match="SHA-256"):
        _open(folder)


def test_a_copy_of_a_bundle_is_hashed_anew(folder: Path, hashed: list[Path]) -> None:
    _open(folder)
    copy = copy_golden(folder.parent / "copy")
    _open(copy)
    assert copy / "weights.safetensors" in hashed


def test_weights_that_failed_are_not_remembered(folder: Path) -> None:
    flip_bit(folder / "weights.safetensors", -1)
    for _ in range(2):
        with pytest.raises(BundleError, match="SHA-256"):
            _open(folder)


def test_verify_hashes_trusts_no_memory(folder: Path) -> None:
    weights = folder / "weights.safetensors"
    _open(folder)
    flip_bit_keeping_time(weights)
    with pytest.raises(BundleError, match="SHA-256"):
        verify_hashes(folder)


def test_a_cache_that_cannot_be_written_costs_only_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch, hashed: list[Path]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "manifest.json"))
    _open(folder)
    _open(folder)
    assert hashed.count(folder / "weights.safetensors") == 2


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b"3", b"\xff\xfe", b"{}" * 2,
        b"[" * 100_000, b'{"' + b"x" * 5000 + b'": 0}',
    ],
    ids=lambda content: repr(content[:4]),
)  # fmt: skip
def test_a_damaged_cache_is_ignored_and_replaced(folder: Path, hashed: list[Path], content: bytes) -> None:
    memory = folder.parent / "cache" / "soda_runtime" / "verified.json"
    memory.parent.mkdir(parents=True)
    memory.write_bytes(content)
    _open(folder)
    _open(folder)
    assert hashed.count(folder / "weights.safetensors") == 1
