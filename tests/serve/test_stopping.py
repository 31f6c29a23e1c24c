"""How a server ends: what was accepted is answered, what comes after is refused, the exit code says which signal."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from soda_runtime import Session
from soda_runtime.serve.command_line import make_app

from ..runtime.bundles import GOLDEN_V5, GOLDEN_V5_CHUNKS
from .clients import read, running, send
from .test_answers import Gate, metric, wait_until

RUNTIME_ALONE = ("-m", "soda_runtime.serve")
COMMAND = ("-m", "soda_export", "serve")


def start(*words: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, *map(str, words)], env=environment, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def port_of(process: subprocess.Popen[str]) -> int:
    assert process.stderr is not None
    for line in process.stderr:
        if " at http://" in line:
            return int(line.partition(" at http://")[2].partition("/")[0].rpartition(":")[2])
    raise AssertionError("it has ended")


@pytest.mark.parametrize(("command", "number"), [(COMMAND, signal.SIGTERM), (RUNTIME_ALONE, signal.SIGINT)])
def test_a_signal_ends_a_server_with_its_code(command: tuple[str, ...], number: signal.Signals) -> None:
    with start(*command, GOLDEN_V5, "--port", 0) as process:
        port = port_of(process)
        assert read(send(port, labels=1)).status == 200
        process.send_signal(number)
        assert process.wait(30) == 128 + number
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_accepted_requests_are_answered_after_the_signal_and_new_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(GOLDEN_V5, batch=1) as server:
        gate = Gate(monkeypatch)
        accepted = [send(server.port, labels=1, seed=seed) for seed in range(3)]
        wait_until(lambda: gate.batches and metric(server, "soda_requests_waiting") == 2)
        server.server.stop()
        refused = server.post(labels=1)
        assert (refused.status, refused.error["code"]) == (503, "stopping")
        assert server.get("/health/ready").status == 503
        assert server.get("/health/live").status == 200
        gate.opened.set()
        assert [read(connection).status for connection in accepted] == [200, 200, 200]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port)).close()


def test_what_is_not_done_in_time_is_refused_not_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    step = Session.step

    def slow(session: Session, index: int) -> None:
        time.sleep(0.3)
        step(session, index)

    with running(GOLDEN_V5, batch=1, drain_seconds=0.2) as server:
        monkeypatch.setattr(Session, "step", slow)
        accepted = [send(server.port, labels=1, seed=seed) for seed in range(2)]
        wait_until(lambda: server.service.in_flight == 2)
        server.server.stop()
        answers = [read(connection) for connection in accepted]
    assert [answer.status for answer in answers] == [503, 503]
    assert {answer.error["code"] for answer in answers} == {"stopping"}


def test_the_container_starts_what_is_there() -> None:
    root = Path(__file__).parents[2]
    text = (root / "Containerfile").read_text()
    project = tomllib.loads((root / "runtime/python/pyproject.toml").read_text())["project"]
    (extras,) = re.findall(r"/tmp/soda-runtime\[([a-z,]+)\]", text)
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    _, *words = json.loads(text.rpartition("ENTRYPOINT ")[2])
    assert tuple(words[:2]) == RUNTIME_ALONE
    _, bound, _ = make_app().parse_args(words[2:], exit_on_error=False, print_error=False)
    assert bound.arguments["options"].host == "0.0.0.0"


def test_no_thread_is_left_behind() -> None:
    before = set(threading.enumerate())
    with running(GOLDEN_V5) as server:
        assert server.post(labels=1).status == 200
    left = {thread for thread in set(threading.enumerate()) - before if thread.name.startswith("soda")}
    assert not left


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((GOLDEN_V5_CHUNKS,), "cannot be served: it makes video"),
        (("nowhere",), "no such bundle folder"),
        ((GOLDEN_V5, "--host", "no address"), "cannot listen there (there is no such address)"),
        ((GOLDEN_V5, "--batch", 0), "--batch 0: must be within 1 .. 256"),
        ((GOLDEN_V5, "--port", 1 << 16), "--port 65536: must be within 0 .. 65535"),
        ((GOLDEN_V5, "--drain-seconds", "nan"), "--drain-seconds nan: must be within"),
    ],
)
def test_a_wrong_start_is_one_line(words: tuple[object, ...], told: str, capsys: Any, monkeypatch: Any) -> None:
    from soda_runtime.serve.__main__ import main

    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert main([*map(str, words)]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_a_port_that_is_taken_is_said_before_the_bundle_is_opened(capsys: Any, monkeypatch: Any) -> None:
    from soda_runtime.serve.__main__ import main

    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(signal, "signal", lambda *_: None)
        assert main(["nowhere", "--port", str(taken.getsockname()[1])]) == 2
    assert "cannot listen there (Address already in use)" in capsys.readouterr().err


def test_the_runtime_serves_without_torch(tmp_path: Path) -> None:
    script = (
        "import sys, soda_runtime.serve.server, soda_runtime.serve.triton_repository, soda_runtime.serve.triton_model\n"
        "heavy = {'torch', 'diffusers', 'soda_export', 'onnx', 'msgspec', 'ray'} & set(sys.modules)\n"
        "sys.exit(f'{heavy} were imported' if heavy else 0)"
    )
    with start("-c", script) as process:
        assert process.wait(60) == 0, process.stderr and process.stderr.read()
