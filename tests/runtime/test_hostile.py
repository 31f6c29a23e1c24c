"""A manifest that lies is refused in one line, with the file and a remedy, before anything is allocated."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from soda_runtime import BundleError
from soda_runtime.checks import open_manifest
from soda_runtime.manifest import MAX_MANIFEST_BYTES
from soda_runtime.versions import parse_manifest

from .bundles import GOLDEN, GOLDENS, Json, both, copy_golden, current_manifest, edit_manifest, put
from .lies import LIES, TEXT_LIES, TRUTHS, V1_LIES, V4_LIES
from .lies.edits import play, program, step

Refuses = Callable[[Path, str], None]
MANIFEST_TEXT = json.dumps(current_manifest(GOLDEN), indent=2).encode()


@pytest.mark.parametrize("change", LIES.values(), ids=LIES.keys())
def test_a_manifest_that_lies_is_refused(folder: Path, refuses: Refuses, change: Callable[[Json], object]) -> None:
    edit_manifest(folder, change)
    refuses(folder, "manifest.json")


@pytest.mark.parametrize("change", TEXT_LIES.values(), ids=TEXT_LIES.keys())
def test_a_manifest_of_prompts_that_lies_is_refused(
    text_folder: Path, refuses: Refuses, change: Callable[[Json], object]
) -> None:
    edit_manifest(text_folder, change)
    refuses(text_folder, "manifest.json")


@pytest.mark.parametrize("change", V4_LIES.values(), ids=V4_LIES.keys())
def test_a_manifest_of_version_4_that_lies_is_refused(
    v4_folder: Path, refuses: Refuses, change: Callable[[Json], object]
) -> None:
    edit_manifest(v4_folder, change)
    refuses(v4_folder, "manifest.json")


@pytest.mark.parametrize("change", V1_LIES.values(), ids=V1_LIES.keys())
def test_a_manifest_of_version_1_that_lies_is_refused(
    v1_folder: Path, refuses: Refuses, change: Callable[[Json], object]
) -> None:
    edit_manifest(v1_folder, change)
    refuses(v1_folder, "manifest.json")


@pytest.mark.parametrize("change", TRUTHS.values(), ids=TRUTHS.keys())
def test_a_manifest_that_is_only_unusual_passes(folder: Path, change: Callable[[Json], object]) -> None:
    edit_manifest(folder, change)
    open_manifest(folder)


def test_refusing_huge_sizes_takes_little_memory(folder: Path, refuses: Refuses) -> None:
    golden = (folder / "manifest.json").read_bytes()
    changes = [change for name, change in LIES.items() if "2**" in name or "illion" in name]
    assert len(changes) >= 8
    for change in changes:
        (folder / "manifest.json").write_bytes(golden)
        edit_manifest(folder, change)
        tracemalloc.start()
        try:
            refuses(folder, "manifest.json")
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()


def _many_tables(manifest: Json) -> None:
    manifest["prepare"][0]["tables"] = [f"t{i}" for i in range(4000)]


def _many_tensors(manifest: Json) -> None:
    for i in range(4000):
        manifest["tensors"].append({**manifest["tensors"][0], "name": f"t{i}"})
    manifest["prepare"][0]["outputs"] = [tensor["name"] for tensor in manifest["tensors"]]
    for each in manifest["programs"]:
        each["inputs"] = list(manifest["prepare"][0]["outputs"])


def _many_axes(manifest: Json) -> None:
    """Too many to multiply."""
    manifest["tensors"][0]["shape"] = [9] * 200_000


def _many_slots(manifest: Json) -> None:
    slots = [f"{layer}.{module}" for layer in range(1000) for module in ("attn", "ff")]
    play([program([], slots)], [step(0, [], list(range(0, 2048 * len(slots), 2048)))] * 8)(manifest)
    manifest["slots"] = [{**manifest["slots"][0], "name": name} for name in slots]
    manifest["arena"]["bytes"] = 2048 * len(slots)


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


@pytest.mark.parametrize("lengthen", [_many_tables, _many_tensors, _many_axes, _many_slots])
def test_judging_a_long_manifest_takes_little_longer_than_parsing_it(
    folder: Path, lengthen: Callable[[Json], None]
) -> None:
    edit_manifest(folder, lengthen)
    text = (folder / "manifest.json").read_bytes()
    parsing = min(_seconds(lambda: parse_manifest(text, "manifest")) for _ in range(3))

    def judge() -> None:
        with suppress(BundleError):
            open_manifest(folder)

    judging = min(_seconds(judge) for _ in range(3))
    assert judging < 12 * parsing


def _replaced(old: bytes, new: bytes) -> bytes:
    assert old in MANIFEST_TEXT
    return MANIFEST_TEXT.replace(old, new, 1)


TEXTS: dict[str, bytes] = {
    "nothing": b"",
    "one brace": b"{",
    "an array": b"[]",
    "a null": b"null",
    "zeros": bytes(4096),
    "a ZIP archive": b"PK\x03\x04" + bytes(100),
    "not UTF-8": _replaced(b"tiny", b"\xff\xfe\xfd\xfc"),
    "a key twice": _replaced(b'"version": 5,', b'"version": 5, "version": 5,'),
    "a key twice, once escaped": _replaced(b'"version": 5,', b'"version": 1, "v\\u0065rsion": 1,'),
    "a nested key twice": _replaced(b'"bytes": 12288,', b'"bytes": 12288, "bytes": 1,'),
    "NaN": _replaced(b'"guidance": 1.5', b'"guidance": NaN'),
    "Infinity": _replaced(b'"guidance": 1.5', b'"guidance": -Infinity'),
    "a float beyond float64": _replaced(b'"guidance": 1.5', b'"guidance": 1e999'),
    "an integer of 5000 digits": _replaced(b'"sites": 7', b'"sites": ' + b"9" * 5000),
    "a name of half a pair of surrogates": _replaced(b'"tiny"', b'"\\ud83d"'),
    "a name of the other half": _replaced(b'"tiny"', b'"tiny \\uDE00"'),
    "a name of two halves in the wrong order": _replaced(b'"tiny"', b'"\\ude00\\ud83d"'),
    "a name of half a pair after a whole one": _replaced(b'"tiny"', b'"\\ud83d\\ude00\\ud83d"'),
    "a comment": _replaced(b"{", b"{ // a comment\n"),
    "text behind the end": MANIFEST_TEXT + b"{}",
    "a million open brackets": b"[" * 1_000_000,
    "a million open objects": b'{"a":' * 1_000_000,
    "a version nested 10000 deep": _replaced(b'"version": 5', b'"version": ' + b"[" * 10_000 + b"]" * 10_000),
    "a precision nested 900 deep": _replaced(b'"fp32"', b"[" * 900 + b"]" * 900),
    "a kind nested 900 deep": _replaced(b'"label"', b"[" * 900 + b"]" * 900),
    **{f"the first {size} bytes": MANIFEST_TEXT[:size] for size in (1, 17, 100, 2000, len(MANIFEST_TEXT) - 3)},
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_a_manifest_that_is_not_its_json_is_refused(folder: Path, refuses: Refuses, text: bytes) -> None:
    (folder / "manifest.json").write_bytes(text)
    refuses(folder, "manifest.json")


def test_a_manifest_over_16_mib_is_refused_unread(folder: Path, refuses: Refuses) -> None:
    with (folder / "manifest.json").open("ab") as file:
        file.truncate(MAX_MANIFEST_BYTES + 1)
    refuses(folder, "manifest.json")


def test_a_newer_version_says_to_update_the_runtime(folder: Path, refuses: Refuses) -> None:
    edit_manifest(folder, both(put("version", value=7), put("surplus", value=1)))
    with pytest.raises(Exception, match="format version 7, this runtime reads 1 to 5; update soda-runtime"):
        refuses(folder, "nothing")


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: golden.name)
def test_a_golden_manifest_gets_as_far_as_the_backend(folder: Path, refuses: Refuses, golden: Path) -> None:
    with pytest.raises(AssertionError, match="a backend was opened"):
        refuses(copy_golden(folder.with_name("golden"), golden), "manifest.json")


@pytest.mark.parametrize("bundle", ["folder", "text_folder"])
def test_a_golden_manifest_in_the_terms_of_the_current_version_gets_as_far_as_the_backend(
    bundle: str, request: pytest.FixtureRequest, refuses: Refuses
) -> None:
    with pytest.raises(AssertionError, match="a backend was opened"):
        refuses(request.getfixturevalue(bundle), "manifest.json")
