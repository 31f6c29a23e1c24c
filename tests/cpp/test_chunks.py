"""Videos in chunks through the C ABI: bit for bit those of the Python runtime with ONNX Runtime, in order, in bounded
memory."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from soda_runtime import EngineError, RequestError, Session

from tests.runtime.bundles import GOLDEN_V5, GOLDEN_V5_CHUNKS, distance, edit_manifest, golden_request, put

from .chunks_toy import PIXELS, ChunksToy
from .library import CppSession, Library

LABELS = [1, 4, 2]


@pytest.fixture
def session(library: Library, tmp_path: Path) -> CppSession:
    return library.open(ChunksToy().write(tmp_path / "toy"), threads=1).session()


def _chunks(session: CppSession) -> list[np.ndarray]:
    return [session.chunk(i) for i in range(session.info.num_chunks)]


@pytest.mark.parametrize("decoder", ["causal", "even", "framewise", "whole"])
def test_chunks_are_those_of_python_bit_for_bit(
    library: Library, tmp_path: Path, decoder: Literal["causal", "even", "framewise", "whole"]
) -> None:
    folder = ChunksToy(decoder=decoder).write(tmp_path / "toy")
    python, cpp = Session.open(folder, threads=1), library.open(folder, threads=1).session()
    for seed in (3, 4):
        assert np.array_equal(cpp.generate(labels=LABELS, seed=seed), python.generate(LABELS, seed=seed))
        expected, chunks = list(python.chunks()), _chunks(cpp)
        assert len(chunks) == len(expected) == python.num_chunks
        assert all(np.array_equal(one, other) for one, other in zip(chunks, expected, strict=True))
        assert np.array_equal(cpp.result(), python.result())
        bytes_of = [cpp.chunk_rgb(i) for i in range(len(chunks))]
        assert np.array_equal(np.concatenate(bytes_of, axis=1), cpp.result_rgb())


def test_the_openvino_backend_makes_chunks(library: Library, tmp_path: Path) -> None:
    toy = ChunksToy()
    try:
        session = library.open(toy.write(tmp_path / "toy"), backend="openvino", threads=1).session()
    except EngineError as error:
        pytest.skip(str(error))
    latents = session.generate(labels=LABELS, seed=3)
    assert distance(np.concatenate(_chunks(session), axis=1), toy.finish(latents)) <= 1e-5


def test_the_golden_bundle_of_chunks_reproduces_its_video(library: Library) -> None:
    with np.load(GOLDEN_V5_CHUNKS.with_name("v5-chunks.npz")) as stored:
        session = library.open(GOLDEN_V5_CHUNKS, threads=1).session()
        assert distance(session.generate(**golden_request(GOLDEN_V5_CHUNKS)), stored["latents"]) <= 1e-3
        assert distance(np.concatenate(_chunks(session), axis=1), stored["video"]) <= 1e-3


def test_a_bundle_says_how_many_chunks_there_are(library: Library, session: CppSession) -> None:
    info = session.info
    assert (info.num_chunks, info.first_chunk_frames, info.chunk_frames) == (3, 1, 4)
    assert list(info.result_axes) == [9, *PIXELS, 3]
    other = library.open(GOLDEN_V5, backend="null").info()
    assert (other.num_chunks, other.first_chunk_frames, other.chunk_frames) == (0, 0, 0)


def test_chunks_are_made_in_order(session: CppSession) -> None:
    with pytest.raises(RequestError, match="no request has been started"):
        session.chunk(0)
    session.generate(labels=LABELS, seed=3)
    expected = session.result()
    with pytest.raises(RequestError, match="chunk 1 cannot be made now; next is 0 of 3"):
        session.chunk(1)
    session.chunk(0)
    session.chunk(1)
    with pytest.raises(RequestError, match="chunk 1 cannot be made now; next is 2 of 3"):
        session.chunk(1)
    for index in (-1, 3):
        with pytest.raises(RequestError, match=f"chunk {index} of 3"):
            session.chunk(index)
    assert np.array_equal(session.chunk(2), expected[:, 5:])  # what was refused changed nothing
    assert np.array_equal(np.concatenate(_chunks(session), axis=1), expected)


@pytest.mark.parametrize("between", ["a request", "a result", "a reset"])
def test_chunks_end_where_something_else_takes_their_buffers(session: CppSession, between: str) -> None:
    session.generate(labels=LABELS, seed=3)
    session.chunk(0)
    if between == "a result":
        session.result()
    else:
        session.reset()
        session.generate(labels=LABELS if between == "a request" else [1], seed=4)
    with pytest.raises(RequestError, match="chunk 1 cannot be made now; next is 0 of 3"):
        session.chunk(1)


def test_later_steps_do_not_change_chunks(session: CppSession) -> None:
    session.start(labels=LABELS, seed=3)
    session.step(0)
    expected = session.result()
    chunks = [session.chunk(0)]
    session.step(1)
    with pytest.raises(RequestError):
        session.start(labels=[99])
    chunks += [session.chunk(1), session.chunk(2)]
    assert np.array_equal(np.concatenate(chunks, axis=1), expected)
    assert distance(session.result(), expected) > 1e-2


def test_too_little_room_for_a_chunk_is_refused_and_changes_nothing(library: Library, session: CppSession) -> None:
    session.generate(labels=LABELS, seed=3)
    session.chunk(0)
    room = np.empty(3 * 4 * 3 * int(np.prod(PIXELS)) - 1, np.float32)
    place = room.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    with pytest.raises(RequestError, match="room for 3455 values, the chunk has 3456"):
        library.call("soda_result_chunk", session.handle, 1, place, room.size)
    session.chunk(1)


def test_chunks_of_no_video_are_refused(library: Library) -> None:
    session = library.open(GOLDEN_V5, backend="null").session()
    session.start(labels=[1])
    with pytest.raises(RequestError, match="makes no video"):
        session.chunk(0)


def test_samples_that_decide_for_themselves_have_their_chunks_in_one_batch(library: Library, tmp_path: Path) -> None:
    folder, decisions = ChunksToy().write_adaptive(tmp_path / "toy"), np.array([[0, 0, 0], [0, 1, 0]])
    python, cpp = Session.open(folder, threads=1), library.open(folder, threads=1).session()
    wanted = {"labels": LABELS, "seed": 5, "policy": "adaptive", "vote": "sample", "decisions": decisions}
    assert np.array_equal(cpp.generate(**wanted), python.generate(**wanted))
    assert np.array_equal(np.concatenate(_chunks(cpp), axis=1), python.result())
    assert np.array_equal(cpp.result(), python.result())


def test_programs_of_another_shape_are_refused(library: Library, tmp_path: Path) -> None:
    folder = ChunksToy().write(tmp_path / "toy")
    edit_manifest(folder, put("finish", 0, "carry", 0, "shape", value=[1 << 17, 1 << 16]))
    session = library.open(folder, threads=1).session()
    session.generate(labels=[1])
    with pytest.raises(EngineError, match=r"decoder-first\.onnx: .*rebuild the bundle"):
        session.chunk(0)
