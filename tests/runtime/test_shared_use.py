"""A session is one caller's at a time, a bundle one process's; what is let go of is free at once."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from soda_runtime import Bundle, EngineError, RequestError, Session
from soda_runtime.backends.host import HostMemory

from .bundles import GOLDEN, GOLDEN_V4

USES: dict[str, Callable[[Session], object]] = {
    "generate": lambda session: session.generate(3), "start": lambda session: session.start(3),
    "step": lambda session: session.step(0), "run_steps": Session.run_steps, "latents": Session.latents,
    "result": Session.result, "images": Session.images, "reset": Session.reset, "wait": Session.wait,
}  # fmt: skip


class Gate:
    """Holds whoever plays a session at a step, until it is let through."""

    def __init__(self, session: Session, step: int) -> None:
        self.arrived, self.open = threading.Event(), threading.Event()
        playback = session.playback
        playback.wait()
        whole = playback.steps[step]

        def held() -> None:
            self.arrived.set()
            assert self.open.wait(60)
            whole()

        playback.steps[step] = held


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_a_session_that_another_thread_plays_is_busy(ort_bundle: Bundle, use: Callable[[Session], object]) -> None:
    session = ort_bundle.session()
    expected = session.generate([1, 2], seed=7)
    gate, found = Gate(session, 3), []
    thread = threading.Thread(target=lambda: found.append(session.generate([1, 2], seed=7)))
    thread.start()
    assert gate.arrived.wait(60)
    with pytest.raises(RequestError, match="the session is busy"):
        use(session)
    gate.open.set()
    thread.join()
    assert np.array_equal(found[0], expected)
    assert np.array_equal(session.generate([1, 2], seed=7), expected)


def test_closing_waits_for_the_request_under_way(ort_bundle: Bundle) -> None:
    session = ort_bundle.session()
    expected = session.generate(3, seed=1)
    gate, found = Gate(session, 2), []
    player = threading.Thread(target=lambda: found.append(session.generate(3, seed=1)))
    player.start()
    assert gate.arrived.wait(60)
    closer = threading.Thread(target=session.close)
    closer.start()
    closer.join(0.1)
    assert closer.is_alive()
    gate.open.set()
    for thread in (player, closer):
        thread.join()
    assert np.array_equal(found[0], expected)
    assert np.array_equal(session.generate(3, seed=1), expected)


def test_a_signal_handler_finds_the_session_busy(session: Session) -> None:
    session.start(3)
    playback, found = session.playback, []
    playback.wait()
    whole = playback.steps[2]

    def interrupt(*_: object) -> None:
        with pytest.raises(RequestError, match="busy"):
            session.start(4)
        found.append(True)

    def interrupted() -> None:
        signal.raise_signal(signal.SIGUSR1)
        whole()

    playback.steps[2] = interrupted
    previous = signal.signal(signal.SIGUSR1, interrupt)
    try:
        session.generate(3)
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert found == [True]


def test_ctrl_c_ends_the_request_and_the_session_takes_another(ort_bundle: Bundle) -> None:
    session = ort_bundle.session()
    expected = session.generate(3, seed=2)

    def interrupt() -> None:
        raise KeyboardInterrupt

    session.playback.steps[4] = interrupt
    with pytest.raises(KeyboardInterrupt):
        session.generate(3, seed=2)
    with pytest.raises(RequestError, match="no request"):
        session.latents()
    assert np.array_equal(session.generate(3, seed=2), expected)


@pytest.mark.parametrize("backend", ["ort", "null"])
def test_buffers_are_freed_with_the_request_that_needed_them(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    """By reference counts alone: a session keeps those of one batch size, a closed one none."""
    alive: weakref.WeakSet[HostMemory] = weakref.WeakSet()
    original = HostMemory.__init__

    def counted(self: HostMemory, nbytes: int) -> None:
        original(self, nbytes)
        alive.add(self)

    monkeypatch.setattr(HostMemory, "__init__", counted)
    gc.collect()
    gc.disable()
    try:
        bundle = Bundle.open(GOLDEN_V4, backend=backend, threads=1)
        session = bundle.session()
        for batch in (1, 5, 2, 7):
            session.generate(3, batch=batch)
            assert len(alive) == len({id(memory) for memory in session.playback._memories})
        session.close()
        bundle.close()
        assert len(alive) == 0
    finally:
        gc.enable()


FORK = """
import gc, os, signal, sys
from soda_runtime import Bundle, EngineError
opened = [Bundle.open(sys.argv[1], backend=sys.argv[2], threads=2) for _ in range(2)]
sessions = [bundle.session() for bundle in opened]
for session in sessions:
    session.generate(3)
del opened[1], sessions[1]  # what is collected later
for _ in range(6):  # a fork in an unlucky moment after a request would hang now and then
    sessions[0].generate(3)
    child = os.fork()
    if not child:
        break
    _, status = os.waitpid(child, 0)
    if status >> 8 != 17:
        sys.exit(f"a fork ended with status {status}")
else:
    os._exit(17)
signal.alarm(30)
for use in (lambda: sessions[0].generate(3), lambda: sessions[0].latents(), lambda: opened[0].session().start(3)):
    try:
        use()
    except EngineError as error:
        assert "fork" in str(error), error
    else:
        sys.exit("played in a fork")
sessions[0].close()
opened[0].close()
del opened, sessions, session, use
gc.collect()
sys.exit(17)
"""


def ends_with_17(code: str, backend: str, *options: str) -> None:
    """Run code in a process of its own, with a golden bundle's path and a backend's name as arguments. options: of
    the interpreter."""
    if backend != "null":
        pytest.importorskip({"ort": "onnxruntime"}.get(backend, backend))
    done = subprocess.run(
        [sys.executable, *options, "-c", code, str(GOLDEN), backend], capture_output=True, text=True, timeout=100,
        check=False,
    )  # fmt: skip
    assert done.returncode == 17, done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("backend", ["ort", "openvino", "null"])
def test_a_fork_refuses_to_play_and_ends(backend: str) -> None:
    ends_with_17(FORK, backend)


SIGNALLED = """
import gc, signal, sys
from soda_runtime import Bundle
heard = []
signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
opened = [Bundle.open(sys.argv[1], backend=sys.argv[2], threads=1) for _ in range(3)]
for bundle in opened:
    bundle.session().generate(3)
for bundle in opened:
    bundle.close()
    gc.collect()
del opened, bundle
gc.collect()
signal.raise_signal(signal.SIGUSR1)
sys.exit(17 if heard else "the signal was lost")
"""


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signal here")
@pytest.mark.parametrize("backend", ["ort", "openvino", "null"])
def test_signals_are_heard_after_bundles_were_closed_in_the_order_of_their_opening(backend: str) -> None:
    """OpenVINO would leave the thread a stack for signal handlers that is gone: Ctrl-C would end in SIGSEGV."""
    ends_with_17(SIGNALLED, backend, "-X", "faulthandler")


def test_an_engine_library_starts_no_telemetry(tmp_path: Path) -> None:
    """ONNX Runtime 1.32 would write an identifier and a database under the user's home."""
    pytest.importorskip("onnxruntime")
    code = "import sys; from soda_runtime import Session; Session.open(sys.argv[1], backend='ort').generate(3)"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("ORT_", "XDG_"))}
    done = subprocess.run(
        [sys.executable, "-c", code, str(GOLDEN)], env=environment | {"HOME": str(tmp_path)}, capture_output=True,
        text=True, check=True, timeout=100,
    )  # fmt: skip
    assert "elemetry" not in done.stderr
    assert [path.name for path in (tmp_path / ".cache").iterdir()] == ["soda_runtime"]


@pytest.mark.parametrize("threads", [3000, 10**6, -1, 2.5, "2", None, True, 10**30])
def test_threads_are_a_whole_number_in_bounds(threads: object) -> None:
    with pytest.raises(EngineError, match=r"threads .*: give a whole number, 0 .* to 1024"):
        Bundle.open(GOLDEN, threads=threads)  # type: ignore[arg-type]


def test_threads_may_be_any_kind_of_whole_number() -> None:
    Bundle.open(GOLDEN, threads=np.int32(1)).close()  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"backend": 5}, {"device": None}, {"weights": 0}, {"options": None}], ids=str)
def test_options_of_another_type_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(EngineError, match=r"must be a string|DeviceOptions"):
        Bundle.open(GOLDEN, **options)  # type: ignore[arg-type]


def test_closing_twice_is_nothing(ort_bundle: Bundle) -> None:
    session = ort_bundle.session()
    session.start(3)
    for _ in range(2):
        with suppress(RequestError):
            session.close()
