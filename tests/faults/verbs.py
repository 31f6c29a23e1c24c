"""Run verbs of the command line in forks of one process that has imported and traced: a second each, not twenty.

    verbs = Verbs(environment)                  # starts the process
    done = verbs.run(["build", ...], folder)    # Done(code, error, seconds, changes)

The fork is the command as a user starts it, in a process group of its own, but for what comes before its first write:
imports, and the trace of the toy model. It can be killed after a time, or before its n-th change of the file system.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
NEVER = 1 << 30
_CHANGES = ("os.rename", "os.link", "os.mkdir", "os.rmdir", "os.remove", "os.symlink", "os.truncate", "shutil.rmtree")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True)
class Done:
    """How a verb ended. code: as of subprocess, negative for a signal. changes: of the file system, as Python's audit
    hooks see them (a library's own are not among them); 0 after a kill."""

    code: int
    error: str
    seconds: float
    changes: int


class Verbs:
    """One warm process. close() ends it."""

    def __init__(self, model: Path) -> None:
        """model: a toy model's folder, which is traced at once."""
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'runtime/python'}", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.faults.verbs", str(model)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answer()

    def run(
        self, words: list[str], folder: Path, after_s: float = NEVER, before_change: int = NEVER,
        **environment: str,
    ) -> Done:  # fmt: skip
        """Run a verb in a folder; SIGKILL its group after a time, or before a change (the first is 1)."""
        request = {
            "words": words, "folder": str(folder), "after_s": after_s, "before_change": before_change,
            "environment": environment,
        }  # fmt: skip
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Done(**self._answer())

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process that runs verbs has ended"
        return json.loads(line)


def _serve(model: Path) -> None:
    import tempfile

    import matplotlib.pyplot
    import onnxruntime  # noqa: F401

    from soda_export.cli import (  # noqa: F401
        build,
        convert,
        evaluate,
        export,
        import_,
        inspect,
        plan,
        profile,
        run,
        sweep,
    )

    del matplotlib
    with tempfile.TemporaryDirectory() as folder:
        _trace(model, Path(folder))
    gc.collect()
    gc.freeze()  # forks neither walk nor copy what is there already
    answers, sys.stdout = sys.stdout, sys.stderr
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(_fork(**json.loads(line))), file=answers, flush=True)


def _trace(model: Path, folder: Path) -> None:
    """Export once, with every kind of renewal: exports to come find the trace of this process."""
    from soda_export.export.export import export_programs
    from soda_export.lower.lower import lower_plan
    from soda_export.models.load import load_model
    from soda_export.models.precision import Numbers
    from soda_export.sampler import freeze_sampler
    from tests.tiny import make_plan, mixed_kept

    loaded = load_model(str(model))
    table = lower_plan(make_plan(loaded.spec, mixed_kept()), loaded.spec)
    sampler = freeze_sampler("ddim", loaded.scheduler_config, 8, 0.0, learned_variance=False)
    export_programs(loaded, sampler, table, Numbers("fp32"), folder, lambda *_: None)


def _fork(
    words: list[str], folder: str, after_s: float, before_change: int, environment: dict[str, str]
) -> dict[str, Any]:
    error, counted = f"/dev/shm/soda-verbs-{os.getpid()}.err", f"/dev/shm/soda-verbs-{os.getpid()}.count"
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        _call(words, folder, error, counted, before_change, environment)
    killer = threading.Timer(after_s, os.kill, (child, signal.SIGKILL)) if after_s < NEVER else None
    if killer:
        killer.start()
    _, status = os.waitpid(child, 0)
    if killer:
        killer.cancel()
        killer.join()  # no thread is left for the next fork
    changes = int(Path(counted).read_text() or "0") if Path(counted).exists() else 0
    Path(counted).unlink(missing_ok=True)
    said = Path(error).read_text() if Path(error).exists() else ""
    return {
        "code": os.waitstatus_to_exitcode(status), "error": said, "seconds": time.monotonic() - started,
        "changes": changes,
    }  # fmt: skip


def _call(
    words: list[str], folder: str, error: str, counted: str, before_change: int, environment: dict[str, str]
) -> None:
    code = 1
    try:
        os.chdir(folder)
        os.environ.update(environment)
        for descriptor, target in ((0, "/dev/null"), (1, "/dev/null"), (2, error)):
            os.dup2(os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC), descriptor)
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(i, mode, closefd=False) for i, mode in enumerate("rww"))
        sys.argv = ["soda-export", *words]
        count = _count_changes(before_change)
        from soda_export.cli.app import main

        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        changes = count[0]
        sys.stdout.flush()
        Path(counted).write_text(str(changes))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _count_changes(before_change: int) -> list[int]:
    count = [0]

    def hook(event: str, args: tuple[Any, ...]) -> None:
        is_change = event in _CHANGES or (event == "open" and isinstance(args[2], int) and args[2] & _WRITES)
        if is_change and not str(args[0]).startswith("/dev/"):
            count[0] += 1
            if count[0] == before_change:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return count


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
