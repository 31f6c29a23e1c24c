"""How a call ends: by signals, once and twice, where nobody reads, on a full disk; and what is said on the way."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from soda_export.cli import terminal
from soda_export.cli.app import _VERBS
from soda_export.cli.ending import orderly_end
from soda_export.cli.terminal import printable, progress_bar

GOLDEN = Path(__file__).parents[1] / "golden/v5"
ENDLESS = {
    "build": ("--model", "digits", "--budget", 17), "profile": ("--model", "digits", "--samples", 5000),
    "bench": (GOLDEN, "--rounds", 10**6),
    "sweep": ("--model", "digits", "--planners", "soda", "--flops-ratios", 2, "--samples", 5000, "--out", "s"),
}  # fmt: skip
"""Verb -> what takes minutes."""
QUICK = (
    ("build", signal.SIGINT, 2), ("profile", signal.SIGTERM, 1), ("bench", signal.SIGINT, 1),
    ("sweep", signal.SIGINT, 1),
)  # fmt: skip
"""The others are marked long: each takes the seconds in which torch is imported."""
_STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def _nothing_runs_on() -> Iterator[None]:
    """Where a verb did not end, either."""
    yield
    while _STARTED:
        _STARTED.pop().kill()


def start(cwd: Path, *words: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "soda_export", *map(str, words)]
    process = subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=_hear_signals,  # which whoever runs the tests in the background may have ignored
    )  # fmt: skip
    _STARTED.append(process)
    return process


def _hear_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def wait_for_work(process: subprocess.Popen[str]) -> None:
    """Until it has used a few seconds of a processor: it is past its imports."""
    for _ in range(600):
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        if (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") > 3.5:
            return
        time.sleep(0.05)
    raise AssertionError("no work was done")


SIGNALS = [
    pytest.param(verb, number, times, marks=() if (verb, number, times) in QUICK else pytest.mark.long)
    for verb in ENDLESS
    for number, times in ((signal.SIGINT, 1), (signal.SIGINT, 2), (signal.SIGTERM, 1))
]


@pytest.mark.parametrize(("verb", "number", "times"), SIGNALS)
def test_a_signal_ends_a_verb_without_a_traceback(tmp_path: Path, verb: str, number: int, times: int) -> None:
    process = start(tmp_path, verb, *ENDLESS[verb])
    wait_for_work(process)
    for _ in range(times):
        process.send_signal(number)
    _, err = process.communicate(timeout=60)
    # the second may come when the interpreter has taken its handlers down, on its way out
    assert process.returncode in (128 + number, *([-number] if times == 2 else [])), err
    assert "Traceback" not in err
    if times == 1:
        goes_on = "" if verb == "bench" else "; the same command goes on from here"
        assert err.splitlines()[-1] == f"soda-export: stopped{goes_on}"
        assert not [*tmp_path.rglob("tmp-*"), *tmp_path.rglob("*.tmp")]


def test_signals_are_heard_from_the_first_moment_on(tmp_path: Path) -> None:
    """While the command line itself is being imported."""
    for delay in (0.25, 0.4, 0.7):
        process = start(tmp_path, "build", "--model", "digits", "--budget", 17)
        time.sleep(delay)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        assert process.returncode in (143, -signal.SIGTERM)  # the latter before Python has begun
        assert "Traceback" not in err


_SIGNALLED = """
import os, signal, sys, time
import cyclopts
from soda_export.cli.app import main

def stopped(*_, **__):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)

cyclopts.App.__call__ = stopped
for verb in sys.argv[1:]:
    child = os.fork()  # of one that has imported everything
    if not child:
        sys.argv = ["soda-export", verb]
        main()
    print(verb, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_every_verb_ends_by_a_signal_in_one_line() -> None:
    """The verb's own function gets it, wherever it is."""
    done = run_python(_SIGNALLED, *_VERBS)
    assert done.stdout.splitlines() == [f"{verb} 143" for verb in _VERBS]
    assert re.fullmatch("(soda-export: stopped(; the same command goes on from here)?\n)+", done.stderr)
    assert done.stderr.count("\n") == len(_VERBS)


_AGAIN = """
import atexit, os, signal, time
from soda_export.cli.ending import orderly_end

def again():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)

atexit.register(again)
with orderly_end("run"):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)
"""


def test_a_second_signal_on_the_way_out_leaves_no_traceback() -> None:
    done = run_python(_AGAIN)
    assert (done.returncode, done.stderr) == (143, "soda-export: stopped\n")


_TURNED = """
import os, signal, time
from soda_export.cli.ending import orderly_end

with orderly_end("plan"):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    except BaseException as error:
        raise RuntimeError("failed to import") from error
"""


def test_a_signal_that_became_another_error_is_a_signal_still() -> None:
    """Some packages raise an error of their own for whatever ends their import."""
    done = run_python(_TURNED)
    assert (done.returncode, done.stderr) == (143, "soda-export: stopped; the same command goes on from here\n")


_HEARD = """
import os, signal
from soda_export.cli.ending import Stopped, orderly_end

before = signal.getsignal(signal.SIGTERM)
try:
    with orderly_end("run"):
        raise Stopped(signal.SIGINT)
except SystemExit as end:
    assert end.code == 130
assert signal.getsignal(signal.SIGTERM) == before
signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
with orderly_end("run"):
    os.kill(os.getpid(), signal.SIGHUP)
print("heard")
"""


def test_what_was_heard_before_is_heard_again() -> None:
    assert run_python(_HEARD).stdout == "heard\n"


def run_python(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: a signal that is not heard ends it."""
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "words", [("inspect", GOLDEN), ("inspect", GOLDEN, "--json"), ("build", "--help"), ("--help",), ("doctor",)]
)
def test_where_nobody_reads_it_ends_silently(tmp_path: Path, words: tuple[object, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-m", "soda_export", *map(str, words)]
    done = subprocess.run(command, env=environment, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("words", [("inspect", GOLDEN), ("inspect", GOLDEN, "--json"), ("run", "--help")])
def test_a_full_disk_under_the_output_is_one_line(tmp_path: Path, words: tuple[object, ...]) -> None:
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-m", "soda_export", *map(str, words)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "soda-export: standard output: No space left on device\n")


def test_a_full_disk_is_said_of_the_file_that_was_to_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"), orderly_end("build"):
        raise OSError(28, "No space left on device", "the-model.safetensors", None, "bundle/weights.safetensors")
    assert capsys.readouterr().err == "soda-export: bundle/weights.safetensors: No space left on device\n"


def test_outside_a_terminal_there_is_a_sign_of_life(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "_SIGN_SECONDS", 0.02)
    with progress_bar() as progress:
        time.sleep(0.1)
        progress("profile", 3, 200)
        time.sleep(0.1)
    said = capsys.readouterr().err
    assert "at work, 0 min\n" in said
    assert "profile: 3 of 200, 0 min\n" in said


def test_names_cannot_move_the_cursor(soda, tmp_path: Path) -> None:
    """Those in a plan; a bundle's own are refused or escaped likewise."""
    plan = json.loads((GOLDEN / "plan.json").read_bytes()) | {"made_by": "\x1b[2J\x1b]0;x\x07\u202e"}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    code, out, err = soda("inspect", "plan.json")
    assert code == 0, err
    assert "\\x1b[2J\\x1b]0;x\\x07\\u202e" in out
    assert "\x1b" not in out
    code, out, err = soda("inspect", "\x1b[2J\r")
    assert code == 2
    assert "[2J" in err
    assert "\x1b" not in err
    assert printable("naïve █ 写\n") == "naïve █ 写\\n"


_HELPED = """
import os, sys
import soda_export.cli.app as app

for verb in sys.argv[1:]:
    child = os.fork()
    if not child:
        sys.argv = ["soda-export", verb, "--help"]
        app.main()
        sys.stdout.flush()
        os._exit("torch" in sys.modules)
    print(verb, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=sys.stderr)
"""


def test_help_is_english_and_needs_no_torch() -> None:
    done = run_python(_HELPED, *_VERBS)
    assert done.stderr.splitlines() == [f"{verb} 0" for verb in _VERBS]
    assert done.stdout.count("Usage: ") == len(_VERBS)
    assert not re.search(r"\[default: (\(\)|\"\"|None)|choices: ,", done.stdout)
