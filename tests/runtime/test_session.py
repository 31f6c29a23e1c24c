"""A session plays the golden bundle to its stored latents, and nothing of one request reaches the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from soda_runtime import Bundle, EngineError, Noise, RequestError, Session, SodaError
from soda_runtime.backends import Engine, Memory, View
from soda_runtime.philox import INITIAL_STREAM, latent_noise
from soda_runtime.signature import ITEM_BYTES, Signature

from .bundles import (
    GOLDEN,
    GOLDEN_TEXT,
    GOLDEN_V1,
    LABELS,
    SHAPE,
    STEPS,
    Latents,
    golden_noise,
    golden_request,
    golden_results,
)
from .bundles import distance as _distance


def _row(noise: Noise, row: int) -> Noise:
    assert noise.steps is not None
    return Noise(noise.initial[row : row + 1], noise.steps[:, row : row + 1])


def _poison(session: Session) -> None:
    for memory in session.playback.memories():
        memory.write(np.full(memory.nbytes, 0xFF, np.uint8))


@pytest.mark.parametrize("folder", [GOLDEN_V1, GOLDEN, GOLDEN_TEXT], ids=lambda folder: folder.name)
def test_a_golden_bundle_plays_to_its_stored_latents(folder: Path, record_property: Callable[..., None]) -> None:
    if folder is GOLDEN_TEXT:
        pytest.importorskip("tokenizers")
    session, expected = Session.open(folder, threads=1), golden_results(folder)
    latents = session.generate(**golden_request(folder))
    assert latents.dtype == np.float32
    distance = _distance(latents, expected["latents"]) / float(np.abs(expected["latents"]).max())
    record_property("largest difference", distance)
    assert distance <= 1e-3
    if "images" in expected:
        assert _distance(session.images(), expected["images"]) <= 1e-4


def test_a_bundle_of_version_1_plays_as_the_one_of_version_2_does() -> None:
    """Both golden bundles are the same toy model with the same plan."""
    first, second = (Session.open(folder, threads=1).generate(LABELS, seed=9) for folder in (GOLDEN_V1, GOLDEN))
    assert _distance(first, second) <= 1e-4


def test_a_request_is_its_steps_one_by_one(session: Session) -> None:
    whole = session.generate(LABELS, seed=1)
    session.start(LABELS, seed=1)
    for i in range(STEPS):
        session.step(i)
    assert np.array_equal(session.latents(), whole)


def test_latents_before_the_first_step_are_the_initial_noise(session: Session) -> None:
    session.start(LABELS, seed=1)
    assert np.array_equal(session.latents(), latent_noise(1, INITIAL_STREAM, 2, SHAPE))


def test_latents_of_one_request_stay_when_the_next_one_runs(session: Session) -> None:
    first = session.generate(LABELS, seed=1)
    kept = first.copy()
    session.generate(LABELS, seed=2)
    assert np.array_equal(first, kept)


def test_the_same_seed_gives_the_same_bits(ort_bundle: Bundle) -> None:
    first, second = ort_bundle.session(), ort_bundle.session()
    latents = first.generate(LABELS, seed=5)
    assert np.array_equal(latents, first.generate(LABELS, seed=5))
    assert np.array_equal(latents, second.generate(LABELS, seed=5))


def test_another_seed_label_or_guidance_gives_other_latents(session: Session) -> None:
    latents = session.generate(LABELS, seed=5)
    assert _distance(latents, session.generate(LABELS, seed=6)) > 1
    assert _distance(latents, session.generate([3, 8], seed=5)) > 1e-3
    assert _distance(latents, session.generate(LABELS, seed=5, guidance=7.5)) > 1e-3


def test_the_bundles_own_guidance_is_the_default(session: Session) -> None:
    assert np.array_equal(session.generate(3, seed=5), session.generate(3, seed=5, guidance=1.5))


def test_a_seed_is_short_for_its_noise(session: Session) -> None:
    assert np.array_equal(session.generate(LABELS, seed=5), session.generate(LABELS, noise=golden_noise(5, 2)))


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.uint32, np.int64, np.uint64])
def test_a_seed_in_a_numpy_type_is_the_same_seed(null_bundle: Bundle, kind: type[np.integer[Any]]) -> None:
    session = null_bundle.session()
    assert np.array_equal(session.generate(3, seed=kind(1234)), session.generate(3, seed=1234))  # type: ignore[arg-type]


def test_every_row_of_a_batch_is_that_sample_played_alone(session: Session) -> None:
    labels, noise = [0, 3, 7, 9], golden_noise(11, 4)
    batch = session.generate(labels, noise=noise)
    for row, label in enumerate(labels):
        assert _distance(batch[row : row + 1], session.generate(label, noise=_row(noise, row))) <= 1e-4


def test_one_label_and_a_batch_repeat_the_label(session: Session) -> None:
    repeated = session.generate([4, 4, 4], seed=2)
    assert np.array_equal(repeated, session.generate(4, batch=3, seed=2))
    assert np.array_equal(repeated, session.generate([4], batch=3, seed=2))
    assert np.array_equal(repeated, session.generate(np.array([4, 4, 4]), seed=2))


@pytest.mark.parametrize("accelerated", [True, False])
def test_nothing_is_carried_from_one_request_to_the_next(session: Session, accelerated: bool) -> None:
    first = session.generate(LABELS, seed=3, accelerated=accelerated)
    _poison(session)
    second = session.generate(LABELS, seed=3, accelerated=accelerated)
    assert np.isfinite(first).all()
    assert np.array_equal(first, second)


def test_an_abandoned_request_leaves_no_trace(session: Session) -> None:
    expected = session.generate(LABELS, seed=3)
    session.start([1, 2], seed=4)
    for i in range(3):
        session.step(i)
    assert np.array_equal(session.generate(LABELS, seed=3), expected)


def test_changing_the_batch_between_requests_changes_nothing_else(ort_bundle: Bundle, session: Session) -> None:
    for batch in (1, 3, 2, 1):
        labels = list(range(batch))
        assert np.array_equal(session.generate(labels, seed=8), ort_bundle.session().generate(labels, seed=8))


def test_the_baseline_needs_no_cache_and_differs_from_the_accelerated(session: Session) -> None:
    accelerated = session.generate(LABELS, seed=3)
    baseline = session.generate(LABELS, seed=3, accelerated=False)
    assert session.playback.arena.nbytes == 1
    assert _distance(accelerated, baseline) > 1e-3
    assert np.array_equal(session.generate(LABELS, seed=3), accelerated)


def test_a_schedule_that_computes_everything_is_the_baseline() -> None:
    bundle = Bundle.open(GOLDEN, threads=1)
    bundle.manifest = replace(bundle.manifest, steps=bundle.manifest.steps[:1] * STEPS)
    session = bundle.session()
    full = session.generate(LABELS, seed=3)
    assert _distance(full, session.generate(LABELS, seed=3, accelerated=False)) <= 1e-4


@pytest.mark.parametrize("window", [1, 3, 8])
def test_conditioning_in_windows_gives_the_same_latents(
    ort_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    whole = ort_bundle.session().generate(LABELS, seed=3)
    bytes_of_a_step = 4 * 20 * 16 * len(LABELS) * 2
    monkeypatch.setattr("soda_runtime.playback.MAX_WINDOW_BYTES", window * bytes_of_a_step)
    session = ort_bundle.session()
    latents = session.generate(LABELS, seed=3)
    assert (session.playback.window, len(session.playback.prepares)) == (window, -(-STEPS // window))
    assert _distance(latents, whole) <= 1e-4


def test_images_of_pixels_are_the_latents_in_0_to_1(session: Session) -> None:
    latents = session.generate(LABELS, seed=3)
    images = session.images()
    assert images.shape == (2, 8, 8, 1)
    assert images.dtype == np.float32
    assert np.array_equal(images[..., 0], np.clip(latents[:, 0] / 2 + 0.5, 0, 1))
    assert images.min() == 0.0


def test_a_request_whose_programs_fail_cannot_go_on_as_the_one_before(
    ort_bundle: Bundle, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = session.generate(LABELS, seed=3)
    session.start(LABELS, seed=4)
    session.step(0)

    def fail() -> None:
        raise EngineError("no")

    session.playback.prepare_request.append(fail)
    with pytest.raises(EngineError):
        session.start(LABELS, seed=5)
    for use in (lambda: session.step(0), lambda: session.step(1), session.latents):
        with pytest.raises(RequestError, match="call start"):
            use()
    del session._players.lanes[0].playback.prepare_request[-1]
    assert np.array_equal(session.generate(LABELS, seed=3), expected)


def test_a_batch_that_no_memory_holds_leaves_the_session_usable(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = session.generate(LABELS, seed=3)
    with monkeypatch.context() as patch:
        patch.setattr("soda_runtime.playback.ITEM_BYTES", dict.fromkeys(ITEM_BYTES, 1 << 62))
        with pytest.raises(EngineError, match="use a smaller batch"):
            session.start(LABELS * 3)
    with pytest.raises(RequestError, match="call start"):
        session.step(0)
    assert np.array_equal(session.generate(LABELS, seed=3), expected)


@pytest.mark.parametrize("index", [1, 5, 8, -1, 100])
def test_a_step_out_of_order_is_refused_and_the_request_goes_on(session: Session, index: int) -> None:
    expected = session.generate(LABELS, seed=3)
    session.start(LABELS, seed=3)
    with pytest.raises(RequestError, match="next is 0 of 8"):
        session.step(index)
    for i in range(STEPS):
        session.step(i)
    assert np.array_equal(session.latents(), expected)


def test_a_step_runs_once(session: Session) -> None:
    session.start(3)
    session.step(0)
    with pytest.raises(RequestError, match="step 0 cannot run now; next is 1 of 8"):
        session.step(0)


def test_a_finished_request_has_no_further_step(session: Session) -> None:
    session.generate(3)
    for index in (0, STEPS):
        with pytest.raises(RequestError, match="cannot run now"):
            session.step(index)


@pytest.mark.parametrize(
    "use", [Session.latents, Session.images, lambda session: session.step(0), lambda session: session.playback]
)
def test_a_session_without_a_request_says_so(session: Session, use: Callable[[Session], object]) -> None:
    with pytest.raises(RequestError, match="call start"):
        use(session)
    session.generate(3)
    session.reset()
    with pytest.raises(RequestError, match="call start"):
        use(session)


def test_a_session_plays_on_after_a_reset(session: Session) -> None:
    expected = session.generate(LABELS, seed=3)
    session.start(LABELS, seed=4)
    session.step(0)
    session.reset()
    assert np.array_equal(session.generate(LABELS, seed=3), expected)


def test_two_sessions_in_two_threads_play_as_one_after_the_other(ort_bundle: Bundle) -> None:
    requests = [([1, 2], 21), ([8, 9], 22)]

    def play(labels: list[int], seed: int) -> list[Latents]:
        session = ort_bundle.session()
        return [session.generate(labels, seed=seed + i) for i in range(6)]

    serial = [play(*request) for request in requests]
    with ThreadPoolExecutor(len(requests)) as pool:
        parallel = [future.result() for future in [pool.submit(play, *request) for request in requests]]
    for alone, together in zip(serial, parallel, strict=True):
        for expected, latents in zip(alone, together, strict=True):
            assert _distance(expected, latents) <= 1e-6


def test_engines_opened_by_two_threads_at_once_are_opened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.open(GOLDEN, threads=1)
    opened: list[str] = []
    original = bundle.backend.open_engine

    def recording(path: Path, signature: Signature, *how: Any) -> Engine:
        opened.append(path.name)
        return original(path, signature, *how)

    monkeypatch.setattr(bundle.backend, "open_engine", recording)
    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(bundle.session().generate, 3) for _ in range(2)]:
            future.result()
    assert sorted(opened) == sorted(set(opened))
    assert len(opened) == 6


class _Separate:
    """A backend whose engines never write where they read: updated slots go to a block of their own, then back."""

    def __init__(self, inner: Any) -> None:
        self._inner, self.copies = inner, 0

    def allocate(self, nbytes: int) -> Memory:
        memory: Memory = self._inner.allocate(nbytes)
        return memory

    def open_engine(self, path: Path, signature: Signature, *how: Any) -> Engine:
        inner, outer = self._inner.open_engine(path, signature, *how), self

        class Separated:
            def bind(
                self, label: str, inputs: Mapping[str, View], outputs: Mapping[str, View]
            ) -> Callable[[], None]:
                places = {(view.memory, view.offset) for view in inputs.values()}
                apart = {
                    name: (view, View(outer.allocate(_nbytes(view)), 0, view.dtype, view.shape))
                    for name, view in outputs.items()
                    if (view.memory, view.offset) in places
                }
                run = inner.bind(label, inputs, {**outputs, **{name: own for name, (_, own) in apart.items()}})

                def call() -> None:
                    run()
                    for place, own in apart.values():
                        memory: Any = place.memory
                        memory.bytes[place.offset : place.offset + own.memory.nbytes] = own.memory.read()
                        outer.copies += 1

                return call

        return Separated()


def _nbytes(view: View) -> int:
    return int(np.prod(view.shape)) * np.dtype(view.dtype).itemsize


def test_updating_a_slot_in_place_gives_the_bits_of_two_buffers(ort_bundle: Bundle) -> None:
    apart = Bundle.open(GOLDEN, threads=1)
    apart.backend = separate = _Separate(apart.backend)
    for labels in ([3], [3, 7]):
        in_place = ort_bundle.session().generate(labels, seed=3)
        assert np.array_equal(apart.session().generate(labels, seed=3), in_place)
    assert separate.copies == 2 * 6


def test_a_bundle_opens_with_either_kind_of_path() -> None:
    for path in (GOLDEN, str(GOLDEN)):
        latents = Session.open(path, backend="null").generate(3)
        assert latents.shape == (1, *SHAPE)


@pytest.mark.parametrize(
    "options", [{"backend": "tpu"}, {"device": "tpu"}, {"backend": "ort", "device": ""}], ids=str
)
def test_an_unknown_backend_or_device_is_refused(options: dict[str, str]) -> None:
    with pytest.raises(SodaError, match=r"backend 'tpu' is unknown|device .* ONNX Runtime runs on cpu, cuda, tensorrt"):
        Bundle.open(GOLDEN, **options)  # type: ignore[arg-type]


def test_a_step_that_fails_ends_the_request(folder: Path) -> None:
    bundle = Bundle.open(folder)
    session = bundle.session()
    session.start(3)
    session.step(0)

    def fail() -> None:
        raise EngineError("step 1: no")

    session.playback.wait()
    whole, session.playback.steps[1] = session.playback.steps[1], fail
    playback = session.playback
    with pytest.raises(EngineError, match="step 1: no"):
        session.step(1)
    with pytest.raises(RequestError, match="no request has been started"):
        session.step(1)
    playback.steps[1] = whole
    np.testing.assert_array_equal(session.generate(3, seed=4), bundle.session().generate(3, seed=4))
