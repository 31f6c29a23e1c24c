"""Videos that are made chunk by chunk: as numpy makes them whole, in memory that does not grow with the clip."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from soda_runtime import Bundle, EngineError, Noise, RequestError, Session
from soda_runtime.backends.host import HostMemory
from soda_runtime.checks import verify_hashes
from soda_runtime.philox import INITIAL_STREAM, latent_noise

from tests.cpp.chunks_toy import CARRY, PIXELS, ChunksToy

from .bundles import GOLDEN, GOLDEN_TEXT, GOLDEN_V5_CHUNKS, Json, both, distance, edit_manifest, golden_request, put

LABELS = [1, 4, 2]
FRAMES = {"causal": [1, 4, 4], "even": [2] * 5, "framewise": [1] * 5, "whole": [9]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ChunksToy().write(tmp_path_factory.mktemp("chunks") / "toy")


@pytest.fixture
def session(folder: Path) -> Iterator[Session]:
    with Bundle.open(folder, threads=1) as bundle, bundle.session() as session:
        yield session


@pytest.mark.parametrize("backend", ["ort", "openvino"])
@pytest.mark.parametrize("decoder", FRAMES)
def test_chunks_are_the_video_that_numpy_makes_of_the_whole_clip(
    tmp_path: Path, decoder: Literal["causal", "even", "framewise", "whole"], backend: str
) -> None:
    pytest.importorskip({"ort": "onnxruntime"}.get(backend, backend))
    toy = ChunksToy(decoder=decoder)
    session = Session.open(toy.write(tmp_path / "toy"), backend=backend, threads=1)
    latents = session.generate(LABELS, seed=5)
    assert distance(latents, toy.play(LABELS, latent_noise(5, INITIAL_STREAM, 3, toy.latent_shape))) <= 1e-5
    chunks = list(session.chunks())
    assert [chunk.shape for chunk in chunks] == [(3, frames, *PIXELS, 3) for frames in FRAMES[decoder]]
    assert (session.num_chunks, session.result_kind) == (len(chunks), "video")
    whole = np.concatenate(chunks, axis=1)
    assert distance(whole, toy.finish(latents)) <= 1e-5
    assert np.array_equal(session.result(), whole)


def test_chunks_are_what_a_program_of_the_whole_makes(session: Session, tmp_path: Path) -> None:
    whole = Session.open(ChunksToy(decoder="whole").write(tmp_path / "whole"), threads=1)
    for labels in ([0], LABELS):
        assert np.array_equal(session.generate(labels, seed=3), whole.generate(labels, seed=3))
        assert distance(session.result(), whole.result()) <= 1e-6


def test_the_golden_bundle_of_chunks_reproduces_its_latents_and_video() -> None:
    with np.load(GOLDEN_V5_CHUNKS.with_name("v5-chunks.npz")) as stored:
        session = Session.open(GOLDEN_V5_CHUNKS, threads=1)
        assert distance(session.generate(**golden_request(GOLDEN_V5_CHUNKS)), stored["latents"]) <= 1e-3
        assert distance(np.concatenate(list(session.chunks()), axis=1), stored["video"]) <= 1e-3


def test_a_samples_video_does_not_depend_on_its_batch(session: Session) -> None:
    noise = latent_noise(7, INITIAL_STREAM, 3, ChunksToy().latent_shape)
    session.generate(LABELS, noise=Noise(noise))
    together = session.result()
    for i, label in enumerate(LABELS):
        session.generate([label], noise=Noise(noise[i : i + 1]))
        assert distance(session.result(), together[i : i + 1]) <= 1e-6


def test_nothing_is_carried_from_one_video_to_the_next(session: Session, folder: Path) -> None:
    session.generate(LABELS, seed=1)
    first = session.result()
    session.generate(LABELS, seed=2)
    chunks = session.chunks()
    next(chunks)
    next(chunks)  # the carry is that of another clip
    session.generate(LABELS, seed=1)
    assert np.array_equal(session.result(), first)
    assert np.array_equal(session.result(), first)


def test_samples_that_decide_for_themselves_have_their_chunks_in_one_batch(tmp_path: Path) -> None:
    toy = ChunksToy()
    session = Session.open(toy.write_adaptive(tmp_path / "toy"), threads=1)
    decisions = np.array([[0, 0, 0], [0, 1, 0]])
    latents = session.generate(LABELS, seed=5, policy="adaptive", vote="sample", decisions=decisions)
    assert np.array_equal(session.decisions, decisions)
    chunks = list(session.chunks())
    assert [chunk.shape[:2] for chunk in chunks] == [(3, frames) for frames in FRAMES["causal"]]
    assert distance(np.concatenate(chunks, axis=1), toy.finish(latents)) <= 1e-5


def _generate(session: Session) -> object:
    return session.generate(0)


ENDS: dict[str, Callable[[Session], object]] = {
    "a request": _generate, "a request of another batch": lambda session: session.start([0, 1]),
    "a result": Session.result, "other chunks": Session.chunks, "a reset": Session.reset, "closing": Session.close,
}  # fmt: skip


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
def test_chunks_end_where_something_else_takes_their_buffers(
    session: Session, end: Callable[[Session], object]
) -> None:
    session.generate(LABELS)
    chunks = session.chunks()
    next(chunks)
    end(session)
    with pytest.raises(RequestError, match=r"these chunks have ended.*ask for chunks\(\) anew"):
        next(chunks)
    assert next(chunks, None) is None


def test_chunks_go_on_after_a_request_that_was_refused_and_after_steps(session: Session) -> None:
    session.start(LABELS, seed=3)
    session.step(0)
    expected = session.result()
    chunks = session.chunks()
    found = [next(chunks)]
    session.step(1)
    with pytest.raises(RequestError):
        session.start([99])
    assert np.array_equal(np.concatenate([*found, *chunks], axis=1), expected)
    assert distance(session.result(), expected) > 1e-2


@pytest.mark.parametrize("golden", [GOLDEN, GOLDEN_TEXT], ids=["pixels", "images"])
def test_chunks_of_no_video_are_refused(golden: Path) -> None:
    session = Session.open(golden, backend="null")
    assert session.num_chunks == 0
    session.start(**golden_request(golden))
    with pytest.raises(RequestError, match=r"makes image, not video; ask for result\(\)"):
        session.chunks()


def test_chunks_need_a_request(session: Session) -> None:
    with pytest.raises(RequestError, match="no request has been started"):
        session.chunks()


def _peak_bytes(session: Session) -> tuple[int, int]:
    """Of making every chunk once everything is bound: the backend's blocks, and the most that numpy has."""
    session.generate(LABELS)
    for _ in session.chunks():
        pass
    made = sum(memory.nbytes for memory in session.playback.video(session.bundle.manifest.finish[0]).memories())
    tracemalloc.start()
    try:
        for _ in session.chunks():
            pass
        return made, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_clip(tmp_path: Path) -> None:
    few, many = ChunksToy(5), ChunksToy(65)
    peaks = [
        _peak_bytes(Session.open(toy.write(tmp_path / str(toy.latent_frames)), threads=1)) for toy in (few, many)
    ]
    assert peaks[1][0] == peaks[0][0]
    more_latents = 4 * len(LABELS) * int(np.prod(many.latent_shape) - np.prod(few.latent_shape))
    more_video = 4 * len(LABELS) * (129 - 9) * 3 * int(np.prod(PIXELS))
    assert 8 * more_latents < more_video
    assert peaks[1][1] - peaks[0][1] < 4 * more_latents  # copies of them, and whether each value is finite


WRONG: dict[str, Callable[[Json], object]] = {
    "more frames a call": both(
        put("finish", 0, "shape", value=[17, 3, *PIXELS]), put("finish", 0, "frames", value=8)
    ),
    "a carried tensor of another shape": put("finish", 0, "carry", 0, "shape", value=[1 << 17, 1 << 16]),
    "a carried tensor of another dtype": put("finish", 0, "carry", 1, "dtype", value="bfloat16"),
    "a carried tensor more": lambda m: m["finish"][0]["carry"].append({**CARRY[0], "name": "more"}),
    "a carried tensor less": lambda m: m["finish"][0]["carry"].pop(),
    "the programs in each other's place": both(
        put("finish", 0, "file", value="decoder-first.onnx"), put("finish", 0, "first", 0, "file", value="decoder.onnx")
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG.keys())
def test_programs_of_a_video_that_are_not_the_manifests_are_refused_before_anything_is_allocated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], object]
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("memory was allocated for sizes that no engine has")

    folder = ChunksToy().write(tmp_path / "toy")
    edit_manifest(folder, change)
    session = Session.open(folder, threads=1)
    session.generate(1)
    monkeypatch.setattr(HostMemory, "__init__", fail)
    with pytest.raises(EngineError, match=r"decoder(-first)?\.onnx: .*rebuild the bundle"):
        session.chunks()


def test_a_video_that_is_not_finite_is_an_error_of_its_chunk(session: Session) -> None:
    session.generate(1)
    maker = session.playback.video(session.bundle.manifest.finish[0])
    make = maker.make
    maker.make = lambda index: make(index) * (np.nan if index == 1 else 1)  # type: ignore[method-assign]
    chunks = session.chunks()
    next(chunks)
    with pytest.raises(EngineError, match="video of sample 0 after 2 of 2 steps: a value is NaN or infinite"):
        next(chunks)


def test_the_weights_of_both_programs_are_verified(folder: Path, tmp_path: Path) -> None:
    assert verify_hashes(folder).finish[0].kind == "video"
    damaged = ChunksToy().write(tmp_path / "toy")
    edit_manifest(damaged, put("finish", 0, "weights", value="weights.safetensors"))
    with pytest.raises(Exception, match=r"decoder\.onnx: initializer 'taps' is not the tensor of that name"):
        verify_hashes(damaged)
