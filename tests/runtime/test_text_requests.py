"""Requests with prompts or embeddings: what is equal stays equal, what is wrong is refused before anything changes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from soda_runtime import Bundle, BundleError, Embeds, EngineError, Noise, RequestError, Session
from soda_runtime.manifest import EmbeddingPort, MaskPort, TokenIdsPort, TokenizerEntry, TokenMaskPort
from soda_runtime.philox import INITIAL_STREAM, latent_noise
from soda_runtime.request import example_request
from soda_runtime.strict_json import encode
from soda_runtime.vocabulary import vocabulary_size

from .bundles import (
    EMBED_WIDTH,
    GOLDEN_TEXT,
    LABELS,
    PROMPTS,
    TEXT_SHAPE,
    TOKENS,
    Json,
    distance,
    edit_manifest,
    relative,
)  # fmt: skip

STEPS = 8


def _drop_encoder(manifest: Json) -> None:
    """Leave embeddings, and the mask that goes with them."""
    mask = encode(MaskPort("attention_mask", "int64", (TOKENS,), "mask"))
    manifest.update(prepare=manifest["prepare"][1:], tokenizers=[], ports=[manifest["ports"][0], mask])


NEGATIVE = "blue"


def _encoded(session: Session, prompts: list[str], negative: str | list[str] = NEGATIVE) -> Embeds:
    """The embeddings and masks that the bundle's own encoder makes of prompts."""
    session.start(prompt=prompts, negative_prompt=negative)
    count, request = len(prompts), session.playback.request
    values = request["embeds"].read().view(np.float32).reshape(2 * count, TOKENS, EMBED_WIDTH)
    mask = request["attention_mask"].read().view(np.int64).reshape(2 * count, TOKENS)
    return Embeds(values[:count], mask[:count], values[count:], mask[count:])


def _embeds(count: int = 1, **changes: Any) -> Embeds:
    values, mask = np.ones((count, TOKENS, EMBED_WIDTH), np.float32), np.ones((count, TOKENS), np.int64)
    return Embeds(values, mask, values, mask)._replace(**changes)


def _poison(session: Session) -> None:
    for memory in session.playback.memories():
        memory.write(np.full(memory.nbytes, 0xFF, np.uint8))


_VALUES, _MASK = _embeds()[:2]
_NAN = np.full_like(_VALUES, np.nan)
WRONG: dict[str, dict[str, Any]] = {
    "nothing": {},
    "a label": {"labels": 3},
    "a label and a prompt": {"labels": 3, "prompt": "a red circle"},
    "a prompt and embeddings": {"prompt": "a red circle", "embeds": _embeds()},
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
    "a batch of a million embeddings": {"embeds": _embeds(), "batch": 10**6},
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
    "embeddings and a negative prompt": {"embeds": _embeds(), "negative_prompt": "blue"},
    "embeddings in an array": {"embeds": _VALUES},
    "embeddings in a tuple": {"embeds": tuple(_embeds())},
    "embeddings of nothing": {"embeds": _embeds(prompt_embeds=None)},
    "embeddings of no samples": {"embeds": _embeds(0)},
    "embeddings without a batch axis": {"embeds": _embeds(prompt_embeds=_VALUES[0])},
    "embeddings of fewer tokens": {
        "embeds": _embeds(prompt_embeds=_VALUES[:, :-1], prompt_attention_mask=_MASK[:, :-1]),
    },
    "embeddings of another width": {"embeds": _embeds(prompt_embeds=_VALUES[:, :, :-1])},
    "embeddings that are not finite": {"embeds": _embeds(prompt_embeds=_NAN)},
    "embeddings beyond float32": {"embeds": _embeds(prompt_embeds=_VALUES.astype(np.float64) * 1e300)},
    "embeddings of strings": {"embeds": _embeds(prompt_embeds=_VALUES.astype(str))},
    "embeddings of complex numbers": {"embeds": _embeds(prompt_embeds=_VALUES * 1j)},
    "ragged embeddings": {"embeds": _embeds(prompt_embeds=[[1], [1, 2]])},
    "no mask": {"embeds": _embeds(prompt_attention_mask=None)},
    "a mask of fewer tokens": {"embeds": _embeds(prompt_attention_mask=_MASK[:, :-1])},
    "a mask of another batch": {"embeds": _embeds(2, prompt_attention_mask=np.ones((3, TOKENS), np.int64))},
    "a mask without a batch axis": {"embeds": _embeds(prompt_attention_mask=_MASK[0])},
    "a mask with a two": {"embeds": _embeds(prompt_attention_mask=_MASK * 2)},
    "a mask of halves": {"embeds": _embeds(prompt_attention_mask=_MASK * 0.5)},
    "a mask of strings": {"embeds": _embeds(prompt_attention_mask=_MASK.astype(str))},
    "a ragged mask": {"embeds": _embeds(prompt_attention_mask=[[1], [1, 1]])},
    "embeddings with no negative ones": {"embeds": _embeds(negative_prompt_embeds=None)},
    "embeddings with no negative mask": {"embeds": _embeds(negative_prompt_attention_mask=None)},
    "negative embeddings that are not finite": {"embeds": _embeds(negative_prompt_embeds=_NAN)},
    "negative embeddings of another width": {"embeds": _embeds(negative_prompt_embeds=_VALUES[:, :, :-1])},
    "two negative embeddings for three": {
        "embeds": Embeds(*_embeds(3)[:2], *_embeds(2)[2:]),
    },
    "a batch of another size than the embeddings": {"embeds": _embeds(2), "batch": 3},
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


def test_embeddings_of_a_prompt_give_the_latents_of_the_prompt(text_session: Session) -> None:
    for prompts in (PROMPTS[:1], PROMPTS):
        expected = text_session.generate(prompt=prompts, negative_prompt=NEGATIVE, seed=3)
        embeds = _encoded(text_session, prompts)
        assert np.array_equal(text_session.generate(embeds=embeds, seed=3), expected)


def test_one_negative_embedding_stands_for_all_samples(text_session: Session) -> None:
    embeds = _encoded(text_session, PROMPTS)
    assert embeds.negative_prompt_embeds is not None
    assert embeds.negative_prompt_attention_mask is not None
    one = embeds._replace(
        negative_prompt_embeds=embeds.negative_prompt_embeds[:1],
        negative_prompt_attention_mask=embeds.negative_prompt_attention_mask[:1],
    )
    assert np.array_equal(text_session.generate(embeds=one, seed=3), text_session.generate(embeds=embeds, seed=3))


@pytest.mark.parametrize("kind", [bool, np.uint8, np.float32])
def test_a_mask_of_another_type_is_the_same_mask(text_session: Session, kind: type) -> None:
    embeds = _encoded(text_session, PROMPTS)
    assert embeds.negative_prompt_attention_mask is not None
    other = embeds._replace(
        prompt_embeds=embeds.prompt_embeds.astype(np.float64),
        prompt_attention_mask=embeds.prompt_attention_mask.astype(kind),
        negative_prompt_attention_mask=embeds.negative_prompt_attention_mask.astype(kind),
    )
    assert np.array_equal(text_session.generate(embeds=other, seed=3), text_session.generate(embeds=embeds, seed=3))


def test_nothing_is_carried_between_prompts_and_embeddings(text_session: Session) -> None:
    embeds = _encoded(text_session, ["blue square"])
    by_prompt = text_session.generate(prompt="a red circle", seed=3)
    by_embeds = text_session.generate(embeds=embeds, seed=3)
    assert relative(by_prompt, by_embeds) > 1e-3
    for _ in range(2):
        _poison(text_session)
        assert np.array_equal(text_session.generate(prompt="a red circle", seed=3), by_prompt)
        _poison(text_session)
        assert np.array_equal(text_session.generate(embeds=embeds, seed=3), by_embeds)


@pytest.mark.parametrize("accelerated", [True, False])
def test_nothing_is_carried_from_one_request_to_the_next(text_session: Session, accelerated: bool) -> None:
    def play() -> tuple[Any, Any]:
        return text_session.generate(prompt=PROMPTS, seed=3, accelerated=accelerated), text_session.images()

    first = play()
    _poison(text_session)
    second = play()
    assert np.isfinite(first[0]).all()
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_prompt_the_negative_prompt_guidance_and_the_seed_matter(text_session: Session) -> None:
    latents = text_session.generate(prompt="a red circle", seed=3)
    for change in (
        {"prompt": "a blue square"}, {"negative_prompt": "blue"}, {"guidance": 1.5}, {"seed": 4}, {"accelerated": False}
    ):  # fmt: skip
        assert relative(latents, text_session.generate(**{"prompt": "a red circle", "seed": 3, **change})) > 1e-3


def test_the_bundles_own_guidance_and_an_empty_negative_prompt_are_the_defaults(text_session: Session) -> None:
    spelled = text_session.generate(prompt=["a red circle"], negative_prompt=[""], guidance=4.5, seed=0, batch=1)
    assert np.array_equal(text_session.generate(prompt="a red circle"), spelled)


def test_guidance_of_one_leaves_the_negative_prompt_without_effect(text_session: Session) -> None:
    one, other = (
        text_session.generate(prompt="a red circle", negative_prompt=negative, guidance=1.0, accelerated=False)
        for negative in ("", "blue")
    )
    assert relative(one, other) <= 1e-5


def test_upper_case_and_outer_spaces_of_a_prompt_make_no_difference(text_session: Session) -> None:
    latents = text_session.generate(prompt="a red circle", negative_prompt="blue")
    assert np.array_equal(text_session.generate(prompt="  A Red CIRCLE\n", negative_prompt=" BLUE "), latents)


def test_one_prompt_and_a_batch_repeat_the_prompt(text_session: Session) -> None:
    repeated = text_session.generate(prompt=["a red circle"] * 3, negative_prompt=["blue"] * 3, seed=2)
    assert repeated.shape == (3, *TEXT_SHAPE)
    for prompt in ("a red circle", ["a red circle"], ("a red circle",)):
        latents = text_session.generate(prompt=prompt, negative_prompt="blue", batch=3, seed=2)
        assert np.array_equal(latents, repeated)
    embeds = _encoded(text_session, ["a red circle"])
    assert np.array_equal(text_session.generate(embeds=embeds, batch=3, seed=2), repeated)


@pytest.mark.parametrize("accelerated", [True, False])
def test_every_row_of_a_batch_is_that_sample_played_alone(text_session: Session, accelerated: bool) -> None:
    prompts, negatives = [*PROMPTS, "", "blue"], ["", "red", "blue", "a"]
    noise = latent_noise(11, INITIAL_STREAM, 4, TEXT_SHAPE)
    batch = text_session.generate(
        prompt=prompts, negative_prompt=negatives, noise=Noise(noise), accelerated=accelerated
    )
    images = text_session.images()
    for row, (prompt, negative) in enumerate(zip(prompts, negatives, strict=True)):
        alone = text_session.generate(
            prompt=prompt, negative_prompt=negative, noise=Noise(noise[row : row + 1]), accelerated=accelerated
        )
        assert relative(batch[row : row + 1], alone) <= 1e-4
        assert distance(images[row : row + 1], text_session.images()) <= 1e-4


@pytest.mark.parametrize("window", [1, 3, 8])
def test_tensors_of_steps_in_windows_give_the_same_latents(
    text_bundle: Bundle, text_session: Session, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    whole = text_session.generate(prompt=PROMPTS, seed=3)
    bytes_of_a_step = 4 * 20 * 48  # one row for all: the tensors of the request do not count
    monkeypatch.setattr("soda_runtime.playback.MAX_WINDOW_BYTES", (window + 1) * bytes_of_a_step - 1)
    session = text_bundle.session()
    latents = session.generate(prompt=PROMPTS, seed=3)
    assert (session.playback.window, len(session.playback.prepares)) == (window, -(-STEPS // window))
    assert relative(latents, whole) <= 1e-4


def test_a_schedule_that_computes_everything_is_the_baseline(text_session: Session) -> None:
    bundle = Bundle.open(GOLDEN_TEXT, threads=1)
    bundle.manifest = replace(bundle.manifest, steps=bundle.manifest.steps[:1] * STEPS)
    full = bundle.session().generate(prompt=PROMPTS, seed=3)
    assert relative(full, text_session.generate(prompt=PROMPTS, seed=3, accelerated=False)) <= 1e-4


def test_images_are_of_the_latents_at_hand(text_session: Session) -> None:
    text_session.generate(prompt=PROMPTS, seed=3)
    final = text_session.images()
    assert final.shape == (2, 16, 16, 3)
    assert final.dtype == np.float32
    assert final.flags.c_contiguous
    assert 0.0 <= final.min() < final.max() <= 1.0
    text_session.start(prompt=PROMPTS, seed=3)
    shown = [text_session.images()]
    for i in range(STEPS):
        text_session.step(i)
        shown.append(text_session.images())
    assert np.array_equal(shown[-1], final)
    assert all(distance(a, b) > 0 for a, b in pairwise(shown))


def test_images_of_one_request_stay_when_the_next_one_runs(text_session: Session) -> None:
    text_session.generate(prompt=PROMPTS, seed=3)
    first = text_session.images()
    kept = first.copy()
    text_session.generate(prompt=PROMPTS, seed=4)
    assert distance(text_session.images(), kept) > 0
    assert np.array_equal(first, kept)
    text_session.generate(prompt=PROMPTS[:1], seed=3)
    assert text_session.images().shape == (1, 16, 16, 3)
    text_session.generate(prompt=PROMPTS, seed=3)
    assert np.array_equal(text_session.images(), kept)


def test_images_do_not_change_the_latents(text_session: Session) -> None:
    latents = text_session.generate(prompt=PROMPTS, seed=3)
    text_session.images()
    assert np.array_equal(text_session.latents(), latents)


def test_a_bundle_with_neither_pixels_nor_decoder_gives_no_images(null_text_bundle: Bundle) -> None:
    null_text_bundle.manifest = replace(null_text_bundle.manifest, finish=())
    session = null_text_bundle.session()
    session.generate(**example_request(null_text_bundle, 1))
    with pytest.raises(RequestError, match="no decoder"):
        session.images()


def test_the_text_encoder_is_opened_by_the_first_prompt_and_the_decoder_by_the_first_image(text_folder: Path) -> None:
    pytest.importorskip("tokenizers")
    bundle = Bundle.open(text_folder, threads=1)
    opened, original = [], bundle.backend.open_engine
    bundle.backend.open_engine = lambda path, *rest: opened.append(path.name) or original(path, *rest)  # type: ignore
    session = bundle.session()
    session.generate(**example_request(bundle, 2))
    assert not {"text-encoder.onnx", "decoder.onnx"} & set(opened)
    session.generate(prompt=PROMPTS)
    session.generate(prompt=PROMPTS[:1])
    assert opened.count("text-encoder.onnx") == 1
    session.images()
    session.images()
    assert opened.count("decoder.onnx") == 1


def test_the_programs_of_a_request_run_in_order_and_the_encoder_for_prompts_alone(null_text_bundle: Bundle) -> None:
    pytest.importorskip("tokenizers")
    ran: list[str] = []
    inner = null_text_bundle.backend.open_engine

    def recording(path: Path, *rest: Any) -> Any:
        engine = inner(path, *rest)

        class Recorded:
            def bind(
                self, label: str, inputs: Mapping[str, Any], outputs: Mapping[str, Any]
            ) -> Callable[[], None]:
                call = engine.bind(label, inputs, outputs)
                return lambda: (ran.append(f"{path.stem}: {label}"), call())[1]

        return Recorded()

    null_text_bundle.backend.open_engine = recording  # type: ignore[method-assign]
    session = null_text_bundle.session()
    steps = ["conditioning: prepare of steps 0..7"]
    steps += [f"{name}: step {i}" for i, name in enumerate(f"step-0{p}" for p in (0, 1, 2, 3, 1, 0, 4, 0))]
    session.generate(prompt=PROMPTS)
    assert ran == ["text-encoder: prepare", "context: prepare", *steps]
    ran.clear()
    session.generate(embeds=_embeds(2))
    assert ran == ["context: prepare", *steps]


def test_a_bundle_without_text_encoder_plays_embeddings_and_refuses_prompts(text_folder: Path) -> None:
    edit_manifest(text_folder, _drop_encoder)
    session = Bundle.open(text_folder, threads=1).session()
    expected = Bundle.open(GOLDEN_TEXT, threads=1).session().generate(embeds=_embeds(2), seed=3)
    assert np.array_equal(session.generate(embeds=_embeds(2), seed=3), expected)
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
    plain = _embeds(2, negative_prompt_embeds=None, negative_prompt_attention_mask=None)
    assert session.generate(embeds=plain).shape == (2, *TEXT_SHAPE)


def test_without_the_tokenizers_library_prompts_say_what_to_install_and_embeddings_play(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    session = Bundle.open(GOLDEN_TEXT, backend="null").session()
    session.start(embeds=_embeds(2))
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
    session.start(embeds=_embeds(2))
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


def test_two_threads_share_one_tokenizer_and_its_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    text = pytest.importorskip("soda_runtime.text")
    pytest.importorskip("tokenizers")
    made = []

    class Counted(text.PromptTokenizer):  # type: ignore[misc]
        def __init__(self, *arguments: Any) -> None:
            made.append(arguments)
            super().__init__(*arguments)

    monkeypatch.setattr(text, "PromptTokenizer", Counted)
    bundle, prompts = Bundle.open(GOLDEN_TEXT, threads=1), [[PROMPTS[0]], [PROMPTS[1]]]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda prompt: bundle.session().generate(prompt=prompt, seed=3), prompts))
    assert len(made) == 1
    for prompt, latents in zip(prompts, together, strict=True):
        assert relative(bundle.session().generate(prompt=prompt, seed=3), latents) <= 1e-6


@pytest.mark.parametrize("golden", ["null_bundle", "null_text_bundle"])
def test_the_example_request_fits_any_bundle(golden: str, request: pytest.FixtureRequest) -> None:
    bundle: Bundle = request.getfixturevalue(golden)
    for samples in (1, 3):
        assert len(bundle.session().generate(**example_request(bundle, samples))) == samples


def test_a_bundle_of_prompts_takes_what_they_are_made_into(null_text_bundle: Bundle) -> None:
    assert null_text_bundle.manifest.ports == (
        EmbeddingPort("embeds", "float32", (TOKENS, EMBED_WIDTH), "embedding"),
        TokenMaskPort("attention_mask", "int64", (TOKENS,), "token_mask", 0),
        TokenIdsPort("input_ids", "int64", (TOKENS,), "token_ids", 0),
    )
    assert null_text_bundle.manifest.tokenizers == (TokenizerEntry("tokenizer.json", TOKENS, "lower-strip", -1),)
    with pytest.raises(RequestError, match="not conditioned on labels"):
        null_text_bundle.session().start(LABELS)


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
