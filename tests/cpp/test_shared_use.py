"""A C++ session is one caller's at a time and one process's; what its bundle became since it was opened is noticed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from soda_runtime import Bundle, BundleError, EngineError, RequestError

from tests.runtime.bundles import GOLDEN_V5, GOLDEN_V5_TEXT, copy_golden, golden_request
from tests.runtime.test_non_finite import VALUES, spoil
from tests.runtime.test_replaced import other_bundle

from .library import ROOT, CppSession, Library, fields_of, has_backend


@pytest.fixture(params=["ort", "openvino"])
def backend(request: pytest.FixtureRequest, library: Library) -> str:
    """A backend that was built."""
    name = str(request.param)
    if not has_backend(name):
        pytest.skip(f"the backend {name} has not been built; `make cpp` says why")
    return name


def _fields() -> dict[str, Any]:
    return fields_of(golden_request(GOLDEN_V5), Bundle.open(GOLDEN_V5, backend="null"))


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


@pytest.mark.parametrize("name", ["ort", "openvino", "null"])
def test_a_fork_refuses_to_play_and_ends(library: Library, name: str) -> None:
    if not has_backend(name):
        pytest.skip(f"the backend {name} has not been built; `make cpp` says why")
    done = subprocess.run(
        [sys.executable, "-c", FORK, str(GOLDEN_V5), name], cwd=ROOT, capture_output=True, text=True, timeout=100,
        check=False,
    )  # fmt: skip
    assert done.returncode == 17, done.stderr


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


def test_a_bundle_replaced_or_removed_while_it_is_open_says_so(
    library: Library, backend: str, tmp_path: Path
) -> None:
    folder = copy_golden(tmp_path / "bundle", GOLDEN_V5)
    bundle = library.open(folder, backend=backend, threads=1)
    folder.rename(tmp_path / "old")
    with pytest.raises(BundleError, match="the bundle was replaced; open it again"):
        bundle.session().start(**_fields())
    other_bundle(tmp_path / "new").rename(folder)
    with pytest.raises(BundleError, match="the bundle was replaced; open it again"):
        bundle.session().start(**_fields())
    library.open(folder, backend=backend, threads=1).session().generate(**_fields())


@pytest.mark.parametrize("change", ["truncate", "write"])
def test_weights_written_to_in_place_are_noticed_before_the_next_request(
    library: Library, backend: str, tmp_path: Path, change: str
) -> None:
    folder = copy_golden(tmp_path / "bundle", GOLDEN_V5)
    session = library.open(folder, backend=backend, threads=1).session()
    session.generate(**_fields())
    weights = folder / "weights.safetensors"
    if change == "truncate":
        os.truncate(weights, 100)
    else:
        with weights.open("r+b") as file:
            file.write(b"x")
    with pytest.raises(BundleError, match="written to while the bundle is open"):
        session.start(**_fields())


def test_a_relative_path_outlives_the_working_directory(
    library: Library, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_golden(tmp_path / "bundle", GOLDEN_V5)
    monkeypatch.chdir(tmp_path)
    bundle = library.open("bundle", backend=backend, threads=1)
    monkeypatch.chdir("/")
    bundle.session().generate(**_fields())


def test_opening_a_bundle_that_is_being_replaced_gives_one_of_the_two(library: Library, tmp_path: Path) -> None:
    copy_golden(tmp_path / "a", GOLDEN_V5)
    other_bundle(tmp_path / "b")
    link, stop = tmp_path / "bundle", threading.Event()
    link.symlink_to("a")

    def replace() -> None:
        i = 0
        while not stop.is_set():
            i += 1
            (tmp_path / "next").symlink_to("ab"[i % 2])
            (tmp_path / "next").replace(link)

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        for _ in range(100):
            library.open(link, backend="null")
    finally:
        stop.set()
        thread.join()


def test_weights_behind_links_play_or_name_the_link(library: Library, backend: str, tmp_path: Path) -> None:
    folder, blobs = copy_golden(tmp_path / "snapshot", GOLDEN_V5), tmp_path / "blobs"
    blobs.mkdir()
    for i, path in enumerate(sorted(folder.iterdir())):
        path.rename(blobs / str(i))
        path.symlink_to(Path("..") / "blobs" / str(i))
    session = library.open(folder, backend=backend, threads=1).session()
    if backend == "openvino":
        with pytest.raises(EngineError, match=r"is a symbolic link.*cp -rL"):
            session.start(**_fields())
        return
    expected = library.open(GOLDEN_V5, backend=backend, threads=1).session().generate(**_fields())
    assert np.array_equal(session.generate(**_fields()), expected)


@pytest.mark.parametrize("value", VALUES)
def test_latents_that_are_not_finite_are_an_engine_error(
    library: Library, backend: str, tmp_path: Path, value: float
) -> None:
    folder = spoil(copy_golden(tmp_path / "bundle", GOLDEN_V5), "weights.safetensors", value)
    session = library.open(folder, backend=backend, threads=1).session()
    with pytest.raises(EngineError, match=r"latents of sample 0 after 10 of 10 steps: .*NaN or infinite.*--precision"):
        session.generate(**_fields())
    for use in (session.result, session.result_rgb, session.images, session.rgb):
        with pytest.raises(EngineError, match="NaN or infinite"):
            use()


def test_images_that_are_not_finite_are_an_engine_error(library: Library, tmp_path: Path) -> None:
    if not has_backend("ort"):
        pytest.skip("the backend ort has not been built; `make cpp` says why")
    folder = spoil(copy_golden(tmp_path / "bundle", GOLDEN_V5_TEXT), "decoder.safetensors", float("nan"))
    session = library.open(folder, threads=1).session()
    ports = {"embeds": np.zeros((1, 8, 16), np.float32), "attention_mask": np.ones((1, 8), np.int64)}
    session.generate(ports=ports | {"-" + name: values for name, values in ports.items()})
    with pytest.raises(EngineError, match=r"image of sample 0 .*NaN or infinite"):
        session.result()


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
