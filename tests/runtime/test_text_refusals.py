"""Wrong requests of prompts, embeddings and token ids are refused before anything changes."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from soda_runtime import Bundle, BundleError, Embeds, EngineError, Noise, RequestError, Session
from soda_runtime.manifest import MaskPort
from soda_runtime.strict_json import encode
from soda_runtime.vocabulary import vocabulary_size

from .bundles import GOLDEN_TEXT, PROMPTS, TEXT_SHAPE, TOKENS, Json, edit_manifest, plain_embeds


def _drop_encoder(manifest: Json) -> None:
    """Leave embeddings, and the mask that goes with them."""
    mask = encode(MaskPort("attention_mask", "int64", (TOKENS,), "mask"))
    manifest.update(prepare=manifest["prepare"][1:], tokenizers=[], ports=[manifest["ports"][0], mask])


_VALUES, _MASK = plain_embeds()[:2]
_NAN = np.full_like(_VALUES, np.nan)
WRONG: dict[str, dict[str, Any]] = {
    "nothing": {},
    "a label": {"labels": 3},
    "a label and a prompt": {"labels": 3, "prompt": "a red circle"},
    "a prompt and embeddings": {"prompt": "a red circle", "embeds": plain_embeds()},
    "a number for a prompt": {"prompt": 3},
    "a number of 5000 digits for a prompt": {"prompt": 10**5000},
    "bytes for a prompt": {"prompt": b"red"},
    "no prompts": {"prompt": []},
    "a prompt that is not there": {"prompt": ["red", None]},
    "prompts in an array": {"prompt": np.array(["red", "blue"])},
    "prompts in a set": {"prompt": {"red", "blue"}},
    "nested prompts": {"prompt": [["red"]]},
    "half a character": {"prompt": "red \ud800"},
    "a batch of another size than the prompts": {"prompt": PROMPTS, "batch": 3},
    "a batch of a million": {"prompt": "red", "batch": 10**6},
    "a batch of a million embeddings": {"embeds": plain_embeds(), "batch": 10**6},
    "prompts beyond the largest batch": {"prompt": ["red"] * 65537},
    "a number for a negative prompt": {"prompt": "red", "negative_prompt": 3},
    "no negative prompt": {"prompt": "red", "negative_prompt": None},
    "an empty list of negative prompts": {"prompt": "red", "negative_prompt": []},
    "two negative prompts for one": {"prompt": "red", "negative_prompt": ["a", "b"]},
    "two negative prompts for three": {"prompt": ["red"] * 3, "negative_prompt": ["a", "b"]},
    "half a character in the negative prompt": {"prompt": "red", "negative_prompt": "\udfff"},
    "a seed below zero": {"prompt": "red", "seed": -1},
    "guidance that is not a number": {"prompt": "red", "guidance": float("nan")},
    "noise of another shape": {"prompt": "red", "noise": Noise(np.zeros((1, 1, 8, 8), np.float32))},
    "embeddings and a negative prompt": {"embeds": plain_embeds(), "negative_prompt": "blue"},
    "embeddings in an array": {"embeds": _VALUES},
    "embeddings in a tuple": {"embeds": tuple(plain_embeds())},
    "embeddings of nothing": {"embeds": plain_embeds(prompt_embeds=None)},
    "embeddings of no samples": {"embeds": plain_embeds(0)},
    "embeddings without a batch axis": {"embeds": plain_embeds(prompt_embeds=_VALUES[0])},
    "embeddings of fewer tokens": {
        "embeds": plain_embeds(prompt_embeds=_VALUES[:, :-1], prompt_attention_mask=_MASK[:, :-1]),
    },
    "embeddings of another width": {"embeds": plain_embeds(prompt_embeds=_VALUES[:, :, :-1])},
    "embeddings that are not finite": {"embeds": plain_embeds(prompt_embeds=_NAN)},
    "embeddings beyond float32": {"embeds": plain_embeds(prompt_embeds=_VALUES.astype(np.float64) * 1e300)},
    "embeddings of strings": {"embeds": plain_embeds(prompt_embeds=_VALUES.astype(str))},
    "embeddings of complex numbers": {"embeds": plain_embeds(prompt_embeds=_VALUES * 1j)},
    "ragged embeddings": {"embeds": plain_embeds(prompt_embeds=[[1], [1, 2]])},
    "no mask": {"embeds": plain_embeds(prompt_attention_mask=None)},
    "a mask of fewer tokens": {"embeds": plain_embeds(prompt_attention_mask=_MASK[:, :-1])},
    "a mask of another batch": {"embeds": plain_embeds(2, prompt_attention_mask=np.ones((3, TOKENS), np.int64))},
    "a mask without a batch axis": {"embeds": plain_embeds(prompt_attention_mask=_MASK[0])},
    "a mask with a two": {"embeds": plain_embeds(prompt_attention_mask=_MASK * 2)},
    "a mask of halves": {"embeds": plain_embeds(prompt_attention_mask=_MASK * 0.5)},
    "a mask of strings": {"embeds": plain_embeds(prompt_attention_mask=_MASK.astype(str))},
    "a ragged mask": {"embeds": plain_embeds(prompt_attention_mask=[[1], [1, 1]])},
    "embeddings with no negative ones": {"embeds": plain_embeds(negative_prompt_embeds=None)},
    "embeddings with no negative mask": {"embeds": plain_embeds(negative_prompt_attention_mask=None)},
    "negative embeddings that are not finite": {"embeds": plain_embeds(negative_prompt_embeds=_NAN)},
    "negative embeddings of another width": {"embeds": plain_embeds(negative_prompt_embeds=_VALUES[:, :, :-1])},
    "two negative embeddings for three": {
        "embeds": Embeds(*plain_embeds(3)[:2], *plain_embeds(2)[2:]),
    },
    "a batch of another size than the embeddings": {"embeds": plain_embeds(2), "batch": 3},
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_request_is_refused_before_anything_changes(null_text_bundle: Bundle, wrong: dict[str, Any]) -> None:
    pytest.importorskip("tokenizers")
    session = null_text_bundle.session()
    session.start(prompt=PROMPTS, seed=3)
    session.step(0)
    playback, before = session.playback, [memory.read().copy() for memory in session.playback.memories()]
    with pytest.raises(RequestError) as caught:
        session.start(**wrong)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
    assert session.playback is playback
    assert all(np.array_equal(memory.read(), old) for memory, old in zip(playback.memories(), before, strict=True))
    session.step(1)


def test_a_bundle_without_text_encoder_plays_embeddings_and_refuses_prompts(text_folder: Path) -> None:
    edit_manifest(text_folder, _drop_encoder)
    session = Bundle.open(text_folder, threads=1).session()
    expected = Bundle.open(GOLDEN_TEXT, threads=1).session().generate(embeds=plain_embeds(2), seed=3)
    assert np.array_equal(session.generate(embeds=plain_embeds(2), seed=3), expected)
    with pytest.raises(RequestError, match="no text encoder; give embeddings"):
        session.start(prompt="a red circle")


def test_a_bundle_without_guidance_takes_no_negative_prompt_and_needs_no_negative_embeddings(
    null_text_bundle: Bundle,
) -> None:
    pytest.importorskip("tokenizers")
    null_text_bundle.manifest = replace(null_text_bundle.manifest, rows_per_sample=1, guidance=1.0)
    session = null_text_bundle.session()
    for negative in ("blue", ["blue"], None, 3):
        with pytest.raises(RequestError, match="without guidance"):
            session.start(prompt="a red circle", negative_prompt=negative)  # type: ignore[arg-type]
    assert session.generate(prompt=PROMPTS).shape == (2, *TEXT_SHAPE)
    assert session.playback.request["input_ids"].nbytes == 8 * 2 * TOKENS
    plain = plain_embeds(2, negative_prompt_embeds=None, negative_prompt_attention_mask=None)
    assert session.generate(embeds=plain).shape == (2, *TEXT_SHAPE)


def test_without_the_tokenizers_library_prompts_say_what_to_install_and_embeddings_play(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    session = Bundle.open(GOLDEN_TEXT, backend="null").session()
    session.start(embeds=plain_embeds(2))
    session.step(0)
    with pytest.raises(EngineError, match=r"pip install soda-runtime\[text\]"):
        session.start(prompt=PROMPTS)
    session.step(1)


def test_a_tokenizer_that_is_none_is_refused_before_anything_changes(
    null_text_bundle: Bundle, text_folder: Path
) -> None:
    pytest.importorskip("tokenizers")
    null_text_bundle.folder = text_folder
    (text_folder / "tokenizer.json").write_text("{}")
    session = null_text_bundle.session()
    session.start(embeds=plain_embeds(2))
    session.step(0)
    for _ in range(2):
        with pytest.raises(BundleError, match=r"tokenizer\.json: not a tokenizer"):
            session.start(prompt=PROMPTS)
    session.step(1)


def test_a_tokenizer_that_names_a_token_it_does_not_have_is_refused(
    null_text_bundle: Bundle, text_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tokenizers")
    null_text_bundle.folder, path = text_folder, text_folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["post_processor"]["single"][1]["SpecialToken"]["id"] = "absent"
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(BundleError, match=r"tokenizer\.json: (not a tokenizer|the tokenizers library fails)"):
        null_text_bundle.session().start(prompt=PROMPTS)
    capfd.readouterr()  # the library writes its own trace


def test_a_token_beyond_the_encoders_vocabulary_is_an_engine_error(text_session: Session, text_bundle: Bundle) -> None:
    expected = text_session.generate(prompt=PROMPTS, seed=3)
    ids = np.full((2, TOKENS), 10**6, np.int64)
    text_session.start(prompt=PROMPTS)
    playback = text_session.playback
    playback.request["input_ids"].write(np.concatenate([ids, ids]))
    with pytest.raises(EngineError, match=r"prepare: .*text-encoder\.onnx: ONNX Runtime failed"):
        playback.encode["text-encoder.onnx"]()
    assert np.array_equal(text_session.generate(prompt=PROMPTS, seed=3), expected)


def _token_inputs(ids: object) -> dict[str, Any]:
    mask = np.ones((1, TOKENS), np.int64)
    zeros = np.zeros((1, TOKENS), np.int64)
    return {
        "inputs": {"input_ids": ids, "attention_mask": mask},
        "negative_inputs": {"input_ids": zeros, "attention_mask": mask},
    }


@pytest.mark.parametrize("wrong", [-1, 10, 2**40])
def test_token_ids_are_those_of_the_vocabulary(null_text_bundle: Bundle, wrong: int) -> None:
    """Ten of them: an engine library may take any other id and compute with something else."""
    session, ids = null_text_bundle.session(), np.arange(1, 1 + TOKENS, dtype=np.int64).reshape(1, TOKENS)
    session.start(**_token_inputs(ids + 1))
    ids[0, 3] = wrong
    with pytest.raises(RequestError, match=r"token id"):
        session.start(**_token_inputs(ids))
    request = _token_inputs(np.zeros_like(ids))
    request["negative_inputs"]["input_ids"] = ids
    with pytest.raises(RequestError, match=r"token id"):
        session.start(**request)


def test_a_vocabulary_is_what_the_file_says(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    for content, size in (
        ("{}", 0), ("[]", 0), ("no JSON", 0), ("[" * 100_000, 0), ('{"model": {"vocab": {"a": 4, "b": 2}}}', 5),
        ('{"model": {"vocab": [["a", 0.0], ["b", -1.5]]}}', 2),
        ('{"model": {"vocab": [["a", 0.0]]}, "added_tokens": [{"id": 7, "content": "<x>"}]}', 8),
        ('{"model": {"vocab": {"a": true, "b": "9"}}, "added_tokens": [5]}', 0),
    ):  # fmt: skip
        path.write_text(content)
        assert vocabulary_size(path) == size
