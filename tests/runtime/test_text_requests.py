"""Requests with prompts or embeddings: what is equal stays equal, what is wrong is refused before anything changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from soda_runtime import Bundle, Embeds, Noise, RequestError, Session
from soda_runtime.manifest import EmbeddingPort, TokenIdsPort, TokenizerEntry, TokenMaskPort
from soda_runtime.philox import INITIAL_STREAM, latent_noise
from soda_runtime.request import example_request

from .bundles import (
    EMBED_WIDTH,
    GOLDEN_TEXT,
    LABELS,
    PROMPTS,
    TEXT_SHAPE,
    TOKENS,
    distance,
    plain_embeds,
    relative,
)  # fmt: skip

STEPS = 8
NEGATIVE = "blue"


def _encoded(session: Session, prompts: list[str], negative: str | list[str] = NEGATIVE) -> Embeds:
    """The embeddings and masks that the bundle's own encoder makes of prompts."""
    session.start(prompt=prompts, negative_prompt=negative)
    count, request = len(prompts), session.playback.request
    values = request["embeds"].read().view(np.float32).reshape(2 * count, TOKENS, EMBED_WIDTH)
    mask = request["attention_mask"].read().view(np.int64).reshape(2 * count, TOKENS)
    return Embeds(values[:count], mask[:count], values[count:], mask[count:])


def _poison(session: Session) -> None:
    for memory in session.playback.memories():
        memory.write(np.full(memory.nbytes, 0xFF, np.uint8))


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
    session.generate(embeds=plain_embeds(2))
    assert ran == ["context: prepare", *steps]


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
