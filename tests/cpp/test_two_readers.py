"""What the differential fuzzer found, each kind with the verdict that both readers now give; and the fuzzer itself."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from soda_runtime import Bundle, BundleError, EngineError

from tests.runtime.bundles import fix_hashes, put

from .library import ROOT, Library, has_backend
from .mutations import Mutator
from .verdicts import Readers

INDEX = "engines.json"


@pytest.fixture
def readers(library: Library) -> Readers:
    """Both readers."""
    return Readers(library)


@pytest.fixture
def indexed(tmp_path: Path) -> Path:
    """A bundle of engines built ahead of time, as far as a reader without their library looks."""
    Mutator(5, tmp_path)
    return tmp_path / "v5-indexed"


def _edit(path: Path, change: Callable[[Any], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
    fix_hashes(path.parent)


def _replace(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    fix_hashes(path.parent)


@pytest.mark.parametrize(
    "change",
    [
        put("library", value="-x"), put("library_version", value="10 9"), put("targets", value=["sm89", "../x"]),
        put("engines", "step-00.onnx", "weights_file", value="a..b"), put("max_batch", value=1 << 63),
        put("engines", "step-00.onnx", "activation_bytes", value=-(1 << 63) - 1), put("max_batch", value=10**400),
        put("model", value="\x1b]0;title\x07"),
    ],
)  # fmt: skip
def test_an_engine_index_of_odd_names_or_numbers_is_an_engine_error(
    library: Library, indexed: Path, change: Callable[[Any], None]
) -> None:
    _edit(indexed / INDEX, change)
    for open_bundle in (Bundle.open, library.open):
        with pytest.raises(EngineError, match=INDEX):
            open_bundle(indexed, backend="null")


def test_a_key_of_external_data_that_is_no_text_is_no_location(readers: Readers, folder: Path) -> None:
    _replace(folder / "step-00.onnx", b"\n\x06length", b"\n\x06le\xffgth")
    answer = readers.compare(folder, random.Random(0), engines=False)
    assert answer.opened, answer
    assert not answer.difference


def test_a_location_that_is_no_text_is_refused(library: Library, folder: Path) -> None:
    _replace(folder / "step-00.onnx", b"weights.safetensors", b"weights.safetensor\xff")
    for open_bundle in (Bundle.open, library.open):
        with pytest.raises(BundleError, match="does not list"):
            open_bundle(folder, backend="null")


def test_what_an_engine_library_says_of_a_graph_is_one_line_of_text(library: Library, folder: Path) -> None:
    """Names in a graph may be any bytes: a terminal's escapes, or no UTF-8."""
    if not has_backend("ort"):
        pytest.skip("the backend ort has not been built; `make cpp` says why")
    content = (folder / "conditioning.onnx").read_bytes()
    kind = b"\x06MatMul"
    assert kind in content
    for odd in (b"\x06M\x1b[2Ju", b"\x06M\xff\xfe\n\x80u"):
        (folder / "conditioning.onnx").write_bytes(content.replace(kind, odd))
        fix_hashes(folder)
        for open_bundle in (Bundle.open, library.open):
            with pytest.raises(EngineError) as caught:
                open_bundle(folder, backend="ort", threads=1).session().start(
                    **({"labels": 3} if open_bundle == Bundle.open else {"labels": [3]})
                )
            assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("tokenizer", "size"),
    [
        ('{"model": {"vocab": {"a": 5}}, "added_tokens": [{"id": 9}]}', 10), ('{"model": {"vocab": [1, 2, 3]}}', 3),
        ('{"model": {"vocab": {"a": 4294967296, "b": 6}}}', 7), ('{"model": {"vocab": {"a": 1e3, "b": true}}}', 0),
        ('{"model": {"vocab": {"a": 9223372036854775807}}}', 0), ('{"model": {"vocab": {"a": 1, "a": 2}}}', 0),
        ('{"model": {"vocab": {"a": -7}}}', 0), ('{"x": NaN, "model": {"vocab": {"a": 1}}}', 0), ("", 0), ("[]", 0),
    ],
)  # fmt: skip
def test_both_count_a_vocabulary_alike(readers: Readers, text_folder: Path, tokenizer: str, size: int) -> None:
    (text_folder / "tokenizer.json").write_text(tokenizer)
    fix_hashes(text_folder)
    bundle = Bundle.open(text_folder, backend="null")
    assert bundle.vocabulary(0) == size
    for seed in range(60):
        answer = readers.compare(text_folder, random.Random(seed), engines=False)
        assert answer.played
        assert not answer.difference


@pytest.mark.parametrize("version", ["3", "4", "5"])
def test_some_mutations_find_nothing(library: Library, version: str) -> None:
    done = subprocess.run(
        [sys.executable, "scripts/fuzz_readers.py", "--mutations", "150", "--format", version, "--seed", "77"],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "150 mutations" in done.stdout


def test_a_reader_that_says_something_else_is_found(library: Library, folder: Path) -> None:
    class Lenient:
        """Opens another folder than it is asked to."""

        def open(self, _: Path, **options: Any) -> Any:
            return library.open(whole, **options)

    whole = folder.parent / "whole"
    whole.symlink_to(folder.rename(folder.parent / "kept"))
    answer = Readers(Lenient()).compare(folder, random.Random(0))  # type: ignore[arg-type]
    assert "Python BundleError" in answer.difference
