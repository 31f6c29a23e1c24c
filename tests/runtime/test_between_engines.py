"""What Python does between two engines: next to nothing, whatever a step takes and keeps."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType

import pytest
from soda_runtime import Bundle, Session
from soda_runtime.request import example_request

from .bundles import GOLDEN_V5_TEXT

_MOST_OF_A_STEP = 16


def _calls_between_engines(session: Session, play: Callable[[], None]) -> list[int]:
    """Functions of Python and C called before each engine but the first one, which opens the others."""
    counts: list[int] = []
    count = 0

    def note(frame: FrameType, event: str, arg: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    def engine() -> None:
        nonlocal count
        counts.append(count - 1)  # itself
        count = 0

    steps = session.playback.steps
    steps[:] = [engine] * len(steps)
    sys.setprofile(note)
    try:
        play()
    finally:
        sys.setprofile(None)
    return counts[1:]


@pytest.fixture
def session() -> Session:
    """In the middle of a request, every engine open."""
    bundle = Bundle.open(GOLDEN_V5_TEXT, backend="null")
    session = bundle.session()
    session.start(**example_request(bundle, 1))
    session.playback.wait()
    return session


def test_the_loop_calls_nothing_but_engines(session: Session) -> None:
    counts = _calls_between_engines(session, session.run_steps)
    assert len(counts) == session.bundle.manifest.sampler.steps - 1
    assert max(counts) == 0


def test_a_step_asked_for_alone_calls_not_much_more(session: Session) -> None:
    steps = session.bundle.manifest.sampler.steps

    def play() -> None:
        for index in range(steps):
            session.step(index)

    counts = _calls_between_engines(session, play)
    assert len(counts) == steps - 1
    assert max(counts) <= _MOST_OF_A_STEP


@pytest.mark.parametrize("backend", ["ort", "openvino"])
def test_a_bound_engine_is_run_and_nothing_else_of_it_is_asked(backend: str) -> None:
    pytest.importorskip({"ort": "onnxruntime"}.get(backend, backend))
    bundle = Bundle.open(GOLDEN_V5_TEXT, backend=backend, threads=1)
    session = bundle.session()
    session.generate(**example_request(bundle, 1))
    called: list[str] = []

    def note(frame: FrameType, event: str, arg: object) -> None:
        if event in ("call", "c_call"):
            called.append(frame.f_code.co_name if event == "call" else getattr(arg, "__name__", ""))

    for step in session.playback.steps:
        called.clear()
        sys.setprofile(note)
        try:
            step()
        finally:
            sys.setprofile(None)
        assert len(called) <= 10, called
