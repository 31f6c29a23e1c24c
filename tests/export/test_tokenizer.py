"""An exported tokenizer gives the ids and masks that the pipeline's own tokenizer gives, whatever the prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from soda_runtime.text import PromptTokenizer
from transformers import CLIPTokenizer, RobertaTokenizer, T5Tokenizer

from soda_export.errors import ModelError
from soda_export.export.tokenizer import export_tokenizer
from tests.text_toys import (
    CLAP_TOKENS,
    CLIP_PAD,
    CLIP_TOKENS,
    HARD_PROMPTS,
    SECOND_PAD,
    T5_TOKENS,
    save_clip_tokenizer,
    save_roberta_tokenizer,
    save_t5_tokenizer,
)

from .text_folders import PIECES


def _clip(folder: Path) -> Any:
    return CLIPTokenizer.from_pretrained(save_clip_tokenizer(folder, CLIP_PAD))


def _second_clip(folder: Path) -> Any:
    return CLIPTokenizer.from_pretrained(save_clip_tokenizer(folder, SECOND_PAD))


def _saved_clip(folder: Path) -> Any:
    """With a tokenizer.json and no merges.txt, as transformers saves it since version 5."""
    _second_clip(folder.with_name("slow")).save_pretrained(folder)
    assert not (folder / "merges.txt").exists()
    return CLIPTokenizer.from_pretrained(folder)


def _t5(folder: Path) -> Any:
    return T5Tokenizer.from_pretrained(save_t5_tokenizer(folder))


def _roberta(folder: Path) -> Any:
    return RobertaTokenizer.from_pretrained(save_roberta_tokenizer(folder))


def _slow_roberta(folder: Path) -> Any:
    """With vocab.json and merges.txt, as the hub has it."""
    save_roberta_tokenizer(folder)
    own = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(own["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in own["merges"]))
    return RobertaTokenizer.from_pretrained(folder)


@pytest.mark.parametrize(
    ("make", "tokens", "pad"),
    [
        (_clip, CLIP_TOKENS, -1), (_second_clip, CLIP_TOKENS, 0), (_saved_clip, CLIP_TOKENS, 0), (_t5, T5_TOKENS, 0),
        (_roberta, CLAP_TOKENS, 1), (_slow_roberta, CLAP_TOKENS, 1),
    ],
)
def test_hard_prompts_get_the_ids_of_the_pipelines_tokenizer(make: Any, tokens: int, pad: int, tmp_path: Path) -> None:
    own = make(tmp_path / "tokenizer")
    found_pad = export_tokenizer(tmp_path / "tokenizer", tmp_path / "tokenizer.json")
    assert found_pad == own.pad_token_id == (pad if pad >= 0 else len(own) - 1)
    ids, mask = PromptTokenizer(tmp_path / "tokenizer.json", tokens, "none", found_pad)(HARD_PROMPTS)
    expected = own(list(HARD_PROMPTS), padding="max_length", max_length=tokens, truncation=True, return_tensors="np")
    assert len(HARD_PROMPTS) >= 40
    for prompt, found, right in zip(HARD_PROMPTS, ids, expected.input_ids, strict=True):
        assert found.tolist() == right.tolist(), prompt
    np.testing.assert_array_equal(mask, expected.attention_mask)
    assert len({row.tobytes() for row in ids}) > 30  # prompts are told apart


def test_a_prompt_of_clip_keeps_begin_and_end_and_is_padded_with_its_own_token(tmp_path: Path) -> None:
    for pad in (CLIP_PAD, SECOND_PAD):
        folder = save_clip_tokenizer(tmp_path / f"tokenizer{len(pad)}", pad)
        number = export_tokenizer(folder, tmp_path / "tokenizer.json")
        tokenize = PromptTokenizer(tmp_path / "tokenizer.json", CLIP_TOKENS, "none", number)
        ids, mask = tokenize(["a red circle", "x" * 99])
        end = len(json.loads((folder / "vocab.json").read_text())) - 1
        assert (ids[0, 0], ids[0, 4], ids[1, 0], ids[1, -1]) == (end - 1, end, end - 1, end)
        assert (mask.sum(1) == [5, CLIP_TOKENS]).all()
        assert (ids[0, 5:] == (end if pad == CLIP_PAD else 0)).all()


def test_a_damaged_vocabulary_is_refused_by_name(tmp_path: Path) -> None:
    folder = save_clip_tokenizer(tmp_path / "tokenizer")
    (folder / "vocab.json").write_text("{")
    with pytest.raises(ModelError, match=r"tokenizer/merges\.txt: transformers cannot load it") as refused:
        export_tokenizer(folder, tmp_path / "tokenizer.json")
    assert "\n" not in str(refused.value)


def test_a_tokenizer_folder_gives_its_tokenizer_json(tmp_path: Path) -> None:
    T5Tokenizer(vocab=PIECES, extra_ids=0).save_pretrained(tmp_path / "tokenizer")
    export_tokenizer(tmp_path / "tokenizer", tmp_path / "tokenizer.json")
    ids, _ = PromptTokenizer(tmp_path / "tokenizer.json", 4)(["red x"])
    assert ids.tolist() == [[4, 3, 2, 1]]


@pytest.mark.filterwarnings("ignore")
def test_a_sentencepiece_model_becomes_a_tokenizer_json(tmp_path: Path) -> None:
    from transformers.convert_slow_tokenizer import import_protobuf

    model = import_protobuf().ModelProto()
    model.trainer_spec.model_type, model.trainer_spec.unk_id = 1, 2
    for i, (piece, score) in enumerate(PIECES):
        entry = model.pieces.add()
        entry.piece, entry.score, entry.type = piece, score, (3, 3, 2)[i] if i < 3 else 1
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "spiece.model").write_bytes(model.SerializeToString())
    export_tokenizer(tmp_path / "in", tmp_path / "tokenizer.json")
    ids, _ = PromptTokenizer(tmp_path / "tokenizer.json", 4)(["red x"])
    assert ids.tolist() == [[4, 3, 2, 1]]


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tokenizer\.json or spiece\.model"):
        export_tokenizer(tmp_path, tmp_path / "tokenizer.json")
