"""A C++ session is one caller's at a time and one process's; what its bundle became since it was opened is noticed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from soda_runtime import RequestError

from tests.runtime.bundles import GOLDEN_V5, GOLDEN_V5_TEXT

from .library import ROOT, CppSession, Library, has_backend


class Gate:
    """A progress callback that holds whoever plays a session after two steps, until it is let through."""

    def __init__(self) -> None:
        self.arrived, self.open = threading.Event(), threading.Event()

    def __call__(self, done: int, steps: int) -> bool:
        if done == 2:
            self.arrived.set()
            assert self.open.wait(60)
        return False


USES: dict[str, Callable[[CppSession], object]] = {
    "generate": lambda session: session.generate_whole(None, labels=[3]), "start": lambda s: s.start(labels=[3]),
    "step": lambda session: session.step(0), "progress": CppSession.samples, "reset": CppSession.reset,
}  # fmt: skip


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_a_session_that_another_thread_plays_is_busy(library: Library, use: Callable[[CppSession], object]) -> None:
    session, gate, played = library.open(GOLDEN_V5, backend="null").session(), Gate(), []

    def play() -> None:
        session.start(labels=[3], seed=1, progress=gate)
        for step in range(session.info.steps):
            session.step(step)
        played.append(session.latents())

    thread = threading.Thread(target=play)
    thread.start()
    assert gate.arrived.wait(60)
    with pytest.raises(RequestError, match="the session is busy"):
        use(session)
    gate.open.set()
    thread.join()
    assert np.array_equal(played[0], session.generate(labels=[3], seed=1))


def test_closing_waits_for_the_call_under_way(library: Library) -> None:
    session, gate, ended = library.open(GOLDEN_V5, backend="null").session(), Gate(), []
    handle = session.handle
    session.handle = type(handle)()  # closed below

    def play() -> None:
        playing.start(labels=[3], progress=gate)
        for step in range(2):
            playing.step(step)
        ended.append("played")

    playing = CppSession.__new__(CppSession)
    playing.__dict__ = {**session.__dict__, "handle": handle}
    player = threading.Thread(target=play)
    player.start()
    assert gate.arrived.wait(60)
    closer = threading.Thread(target=lambda: (library.c.soda_session_close(handle), ended.append("closed")))
    closer.start()
    closer.join(0.1)
    assert closer.is_alive()
    gate.open.set()
    player.join()
    closer.join()
    playing.handle = type(handle)()
    assert ended[-1] == "closed" or set(ended) == {"played", "closed"}


FORK = """
import os, signal, sys
from soda_runtime import EngineError
from tests.cpp.library import load
library = load()
bundle = library.open(sys.argv[1], backend=sys.argv[2], threads=2)
session = bundle.session()
session.generate(labels=[3])
child = os.fork()
if child:
    _, status = os.waitpid(child, 0)
    assert not os.WIFSIGNALED(status), status
    os._exit(os.WEXITSTATUS(status))
signal.alarm(30)
start, step = (lambda: session.start(labels=[3])), (lambda: session.step(0))
for use in (start, step, session.latents, session.samples, bundle.session):
    try:
        use()
    except EngineError as error:
        assert "fork" in str(error), error
    else:
        sys.exit("played in a fork")
del session, bundle, use, start, step  # closes them
library.open(sys.argv[1], backend="null").session().generate(labels=[3])  # of its own
sys.exit(17)
"""


def ends_with_17(code: str, name: str) -> None:
    """Run code in a process of its own, with a golden bundle's path and a backend's name as arguments."""
    if not has_backend(name):
        pytest.skip(f"the backend {name} has not been built; `make cpp` says why")
    done = subprocess.run(
        [sys.executable, "-c", code, str(GOLDEN_V5), name], cwd=ROOT, capture_output=True, text=True, timeout=100,
        check=False,
    )  # fmt: skip
    assert done.returncode == 17, done.stderr


@pytest.mark.parametrize("name", ["ort", "openvino", "null"])
def test_a_fork_refuses_to_play_and_ends(library: Library, name: str) -> None:
    ends_with_17(FORK, name)


SIGNALLED = """
import signal, sys
from tests.cpp.library import load
heard, library = [], load()
signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
opened = [library.open(sys.argv[1], backend=sys.argv[2], threads=1) for _ in range(3)]
for bundle in opened:
    bundle.session().generate(labels=[3])
while opened:
    bundle = opened.pop(0)  # whose last reference closes it
del bundle
signal.raise_signal(signal.SIGUSR1)
sys.exit(17 if heard else "the signal was lost")
"""


@pytest.mark.parametrize("name", ["ort", "openvino", "null"])
def test_signals_are_heard_after_bundles_were_closed_in_the_order_of_their_opening(library: Library, name: str) -> None:
    """OpenVINO would leave the thread a stack for signal handlers that is gone: the next signal would be SIGSEGV."""
    ends_with_17(SIGNALLED, name)


def test_an_engine_library_starts_no_telemetry(library: Library, tmp_path: Path) -> None:
    """ONNX Runtime 1.32 would write an identifier and a database under the user's home."""
    if not has_backend("ort"):
        pytest.skip("the backend ort has not been built; `make cpp` says why")
    code = "import sys; from tests.cpp.library import load; load().open(sys.argv[1]).session().generate(labels=[3])"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("ORT_", "XDG_"))}
    done = subprocess.run(
        [sys.executable, "-c", code, str(GOLDEN_V5)], cwd=ROOT, env=environment | {"HOME": str(tmp_path)},
        capture_output=True, text=True, check=True, timeout=100,
    )  # fmt: skip
    assert "elemetry" not in done.stderr
    assert [path.name for path in (tmp_path / ".cache").iterdir()] == ["soda_runtime"]


@pytest.mark.parametrize("wrong", [-1, 10, 2**40])
def test_token_ids_are_those_of_the_vocabulary(library: Library, wrong: int) -> None:
    session = library.open(GOLDEN_V5_TEXT, backend="null").session()
    ids, mask = np.arange(2, 10, dtype=np.int64).reshape(1, 8), np.ones((1, 8), np.int64)
    fields = {"token_mask": mask, "negative_token_mask": mask, "num_prompts": 1, "num_negatives": 1}
    session.start(token_ids=ids, negative_token_ids=ids, **fields)
    bad = ids.copy()
    bad[0, 3] = wrong
    for positive, negative in ((bad, ids), (ids, bad)):
        with pytest.raises(RequestError, match="token id"):
            session.start(token_ids=positive, negative_token_ids=negative, **fields)
    ports = {"input_ids": bad, "attention_mask": mask}
    with pytest.raises(RequestError, match="token id"):
        session.start(ports=ports | {"-" + name: values for name, values in ports.items()})


@pytest.mark.parametrize("threads", [-1, 1025, 10**6])
def test_threads_are_in_bounds(library: Library, threads: int) -> None:
    with pytest.raises(RequestError, match=r"options\.threads is"):
        library.open(GOLDEN_V5, backend="null", threads=threads)


def test_memory_is_that_of_the_last_batch_size(library: Library, backend: str) -> None:
    """A program compiled, or buffers allocated, for each size that ever was would fill the memory."""
    session = library.open(GOLDEN_V5, backend=backend, threads=1).session()

    def resident_mb() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    def play(first: int, count: int) -> None:
        for size in range(first, first + count):
            session.start(labels=[3], samples=size)
            session.step(0)

    play(250, 4)
    before = resident_mb()
    play(254, 12)
    assert resident_mb() - before < 4 * 12  # one size takes 25 MB here
