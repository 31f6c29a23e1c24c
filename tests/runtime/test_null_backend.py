"""The null backend plays a sound schedule, and an unsound one or a wrongly bound step is an InternalError."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from soda_runtime import Bundle, EngineError, Session
from soda_runtime.backends import View
from soda_runtime.backends.host import HostMemory
from soda_runtime.backends.null import NullBackend
from soda_runtime.errors import InternalError, SodaError
from soda_runtime.manifest import Manifest, Step
from soda_runtime.philox import INITIAL_STREAM, latent_noise
from soda_runtime.playback import Playback
from soda_runtime.request import example_request
from soda_runtime.signature import Port, Signature

from .bundles import GOLDEN, GOLDEN_V1

SLOT = Port("float32", (4,))


@pytest.fixture
def bundle() -> Bundle:
    """The golden bundle on the null backend."""
    return Bundle.open(GOLDEN, backend="null")


def _with_step(manifest: Manifest, index: int, **changes: object) -> Manifest:
    steps = list(manifest.steps)
    steps[index] = replace(steps[index], **changes)  # type: ignore[arg-type]
    return replace(manifest, steps=tuple(steps))


def _with_program(manifest: Manifest, index: int, **changes: object) -> Manifest:
    programs = list(manifest.programs)
    programs[index] = replace(programs[index], **changes)  # type: ignore[arg-type]
    return replace(manifest, programs=tuple(programs))


def _finish(session: Session) -> None:
    for i in range(8):
        session.step(i)


def _moved(offsets: tuple[int, ...], old: int, new: int) -> tuple[int, ...]:
    return tuple(new if offset == old else offset for offset in offsets)


@pytest.mark.parametrize("accelerated", [True, False])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_golden_bundle_plays_to_its_initial_noise(bundle: Bundle, batch: int, accelerated: bool) -> None:
    session = bundle.session()
    for seed in (1, 2):
        latents = session.generate(4, batch=batch, seed=seed, accelerated=accelerated)
        assert np.array_equal(latents, latent_noise(seed, INITIAL_STREAM, batch, (1, 8, 8)))


@pytest.mark.parametrize("accelerated", [True, False])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_golden_bundle_of_prompts_plays_to_its_initial_noise(
    null_text_bundle: Bundle, batch: int, accelerated: bool
) -> None:
    session = null_text_bundle.session()
    for seed in (1, 2):
        request = example_request(null_text_bundle, batch)
        latents = session.generate(**request, seed=seed, accelerated=accelerated)
        assert np.array_equal(latents, latent_noise(seed, INITIAL_STREAM, batch, (4, 8, 8)))
        assert not session.images().any()


def test_the_golden_bundle_of_version_1_plays_to_its_initial_noise() -> None:
    latents = Bundle.open(GOLDEN_V1, backend="null").session().generate(4, seed=1)
    assert np.array_equal(latents, latent_noise(1, INITIAL_STREAM, 1, (1, 8, 8)))


def test_sessions_of_one_bundle_do_not_see_each_others_slots(bundle: Bundle) -> None:
    first, second = bundle.session(), bundle.session()
    first.start(1)
    second.start(2)
    for i in range(8):
        first.step(i)
        second.step(i)


CORRUPT: dict[str, Callable[[Manifest], Manifest]] = {
    "a read where another slot lies": lambda m: _with_step(m, 1, read_offsets=(2048, 0, 4096, 6144, 8192, 10240)),
    "a read half a slot away": lambda m: _with_step(m, 1, read_offsets=(1024, 2048, 4096, 6144, 8192, 10240)),
    "a read one alignment away": lambda m: _with_step(m, 1, read_offsets=(256, 2048, 4096, 6144, 8192, 10240)),
    "a slot updated away from where the next step reads it": lambda m: _with_step(
        m, 2, write_offsets=(0, 6144, 10240)
    ),
    "a slot written over the half of a live one": lambda m: replace(
        m,
        steps=tuple(
            Step(s.program, _moved(s.read_offsets, 2048, 1024), _moved(s.write_offsets, 2048, 1024)) for s in m.steps
        ),
    ),
    "a later slot over a live one": lambda m: _with_program(
        replace(m, steps=(*m.steps[:2], Step(5, (), (0,)), *m.steps[3:])), 5, writes=("2.ff",)
    ),
    "a slot read before it is written": lambda m: replace(m, steps=m.steps[1:] + m.steps[:1]),
    "a slot that no step writes": lambda m: replace(
        _with_program(m, 0, writes=m.programs[0].writes[:5]),
        steps=tuple(replace(s, write_offsets=s.write_offsets[:5]) if s.program == 0 else s for s in m.steps),
    ),
}


@pytest.mark.parametrize("corrupt", CORRUPT.values(), ids=CORRUPT.keys())
def test_an_unsound_schedule_is_caught(bundle: Bundle, corrupt: Callable[[Manifest], Manifest]) -> None:
    bundle.manifest = corrupt(bundle.manifest)
    with pytest.raises(InternalError):
        bundle.session().generate(4)


def test_an_internal_error_is_none_that_the_user_can_mend() -> None:
    assert not issubclass(InternalError, SodaError)


@pytest.mark.parametrize("step", [1, 2, 3, 4, 6])
def test_a_step_bound_to_another_steps_arena_is_caught(bundle: Bundle, step: int) -> None:
    session = bundle.session()
    session.start(4)
    other = Playback(bundle, 1, "frozen")
    session.playback.steps[step] = other.steps[step]
    with pytest.raises(InternalError, match=f"step {step}: reads slot 0.attn, which nothing has written"):
        _finish(session)


@pytest.mark.parametrize("step", [0, 2, 3])
def test_memory_overwritten_between_two_steps_is_caught(bundle: Bundle, step: int) -> None:
    session = bundle.session()
    session.start(4)
    for i in range(step + 1):
        session.step(i)
    arena = session.playback.arena
    content = arena.read().copy()
    content[2048 + 256 : 2048 + 512] ^= 1  # one aligned block, the least that a slot out of place can hit
    arena.write(content)
    with pytest.raises(InternalError, match=f"step {step + 1}: slot 0.ff does not hold what step {step} wrote"):
        session.step(step + 1)


def test_a_request_whose_first_step_is_left_out_is_caught(bundle: Bundle) -> None:
    session = bundle.session()
    session.start(4)
    with pytest.raises(InternalError, match="nothing has written"):
        session.playback.steps[1]()


def test_a_later_request_whose_first_step_is_left_out_is_caught(bundle: Bundle) -> None:
    session = bundle.session()
    session.generate(4)
    session.start(4)
    with pytest.raises(InternalError):
        session.playback.steps[1]()


def test_two_updating_steps_in_the_wrong_order_are_caught(bundle: Bundle) -> None:
    session = bundle.session()
    session.start(4)
    session.playback.wait()
    steps = session.playback.steps
    steps[2], steps[3] = steps[3], steps[2]
    with pytest.raises(InternalError):
        _finish(session)


def test_a_slot_outside_the_arena_is_caught(bundle: Bundle) -> None:
    beyond = 1 << 20
    bundle.manifest = replace(
        bundle.manifest,
        steps=tuple(
            Step(s.program, _moved(s.read_offsets, 10240, beyond), _moved(s.write_offsets, 10240, beyond))
            for s in bundle.manifest.steps
        ),
    )
    with pytest.raises(InternalError):
        bundle.session().generate(4)


def test_a_missing_engine_file_is_caught(tmp_path: Path) -> None:
    with pytest.raises(InternalError, match="does not exist"):
        NullBackend().open_engine(tmp_path / "step-00.onnx", Signature({}, {}))


@pytest.mark.parametrize(
    ("inputs", "outputs"), [(set(), {"cache_out.x"}), ({"cache.x", "y"}, set()), ({"cache.x"}, {"y"})]
)
def test_names_that_differ_from_the_signature_are_caught(tmp_path: Path, inputs: set[str], outputs: set[str]) -> None:
    (tmp_path / "engine").touch()
    backend = NullBackend()
    engine = backend.open_engine(tmp_path / "engine", Signature({"cache.x": SLOT}, {"cache_out.x": SLOT}))
    view = View(backend.allocate(16), 0, "float32", (4,))
    with pytest.raises(InternalError, match="step 0: bound names differ"):
        engine.bind("step 0", dict.fromkeys(inputs, view), dict.fromkeys(outputs, view))


@pytest.mark.parametrize("nbytes", [1, 255, 256, 257, 100_000])
def test_host_memory_is_zeroed_aligned_and_read_back(nbytes: int) -> None:
    memory = HostMemory(nbytes)
    assert memory.nbytes == nbytes
    assert memory.address % 256 == 0
    assert not memory.read().any()
    content = np.arange(nbytes, dtype=np.uint8)
    memory.write(content)
    copy = memory.read()
    assert np.array_equal(copy, content)
    memory.write(np.zeros(nbytes, np.uint8))
    assert np.array_equal(copy, content)


@pytest.mark.parametrize(
    "nbytes",
    [
        1 << 62,
        1 << 63,
    ],
)
def test_memory_that_cannot_be_had_is_an_engine_error(nbytes: int) -> None:
    with pytest.raises(EngineError, match="use a smaller batch"):
        HostMemory(nbytes)
