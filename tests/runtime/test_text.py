"""Prompts become the ids that transformers gives PixArt's pipeline, with the tokenizers library alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from soda_runtime.errors import BundleError, EngineError, RequestError
from soda_runtime.text import PromptTokenizer

pytest.importorskip("tokenizers")
T = 8
PROMPTS = [
    "a red circle", "", "  RED Circle ", "a red circle above a blue circle above a red circle", "zzzz" * 20,
    "日本 é red", "</s> red <pad>", "red\n\tblue",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5 tokenizer folder: a word is a piece, and so is a letter."""
    transformers = pytest.importorskip("transformers")
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -30.0), ("▁", -6.0)]
    pieces += [("▁" + word, -2.0) for word in ("a", "red", "blue", "circle", "above")]
    pieces += [(chr(c), -12.0) for c in range(ord("a"), ord("z") + 1)]
    path = tmp_path_factory.mktemp("tokenizer")
    transformers.T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=T).save_pretrained(path)
    return path


def test_ids_and_mask_are_those_of_transformers(folder: Path) -> None:
    from transformers import T5Tokenizer

    ids, mask = PromptTokenizer(folder / "tokenizer.json", T)(PROMPTS)
    cleaned = [prompt.lower().strip() for prompt in PROMPTS]
    expected = T5Tokenizer.from_pretrained(folder)(
        cleaned, padding="max_length", max_length=T, truncation=True, return_tensors="np"
    )
    assert ids.dtype == mask.dtype == np.int64
    np.testing.assert_array_equal(ids, expected.input_ids)
    np.testing.assert_array_equal(mask, expected.attention_mask)


def test_a_prompt_that_is_too_long_keeps_its_end_mark(folder: Path) -> None:
    ids, mask = PromptTokenizer(folder / "tokenizer.json", T)(["red " * 50])
    assert ids[0, -1] == 1
    assert mask.all()


def test_the_log_says_what_a_prompt_loses(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokenize = PromptTokenizer(folder / "tokenizer.json", T)
    tokenize(["a red circle", "Red circle above a blue circle above a \x1bred"])
    assert [record.getMessage() for record in caplog.records] == [
        f"prompt 1: the model reads {T} tokens; it loses 'a  red'"
    ]
    caplog.clear()
    tokenize(["red " * 300])
    assert len(caplog.text) <= 400


def test_upper_case_and_outer_spaces_make_no_difference(folder: Path) -> None:
    ids, _ = PromptTokenizer(folder / "tokenizer.json", T)(["  A Red CIRCLE\n", "a red circle"])
    np.testing.assert_array_equal(ids[0], ids[1])


def test_no_prompts_give_no_rows(folder: Path) -> None:
    ids, mask = PromptTokenizer(folder / "tokenizer.json", T)([])
    assert ids.shape == mask.shape == (0, T)


@pytest.mark.parametrize("prompts", ["red", [1], [None], ["red", b"blue"], 3, ["\ud800"]])
def test_what_is_no_list_of_strings_is_a_request_error(folder: Path, prompts: object) -> None:
    with pytest.raises(RequestError, match="prompts"):
        PromptTokenizer(folder / "tokenizer.json", T)(prompts)  # type: ignore[arg-type]


class _Shouting(str):
    """A string whose methods give something else."""

    __slots__ = ()

    def lower(self) -> str:
        raise AssertionError("called")

    strip = lower


@pytest.mark.parametrize("kind", [np.str_, _Shouting])
def test_a_string_of_another_class_is_its_characters(folder: Path, kind: Callable[[str], str]) -> None:
    tokenizer = PromptTokenizer(folder / "tokenizer.json", T)
    np.testing.assert_array_equal(tokenizer([kind(" A red circle ")])[0], tokenizer(["a red circle"])[0])


def test_a_tokenizer_that_fails_on_a_prompt_is_a_bundle_error(folder: Path, tmp_path: Path) -> None:
    """A vocabulary without an unknown token opens, and fails on the first text that it does not cover."""
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"] = {"type": "WordLevel", "vocab": {"red": 0}, "unk_token": "none"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(BundleError, match="cannot encode a prompt"):
        PromptTokenizer(tmp_path / "tokenizer.json", T)(["a blue circle"])
    del content["model"]
    content["model"] = {"type": "Unigram", "vocab": [["a", 0.0]]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(BundleError, match="cannot encode a prompt"):
        PromptTokenizer(tmp_path / "tokenizer.json", T)(["zebra"])


def test_a_damaged_tokenizer_is_a_bundle_error(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"version": 1}')
    for name in ("tokenizer.json", "absent.json"):
        with pytest.raises(BundleError, match=name):
            PromptTokenizer(tmp_path / name, T)


def test_without_the_library_the_error_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(EngineError, match=r"pip install soda-runtime\[text\]"):
        PromptTokenizer(folder / "tokenizer.json", T)
