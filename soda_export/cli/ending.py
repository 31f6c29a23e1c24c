"""How a call ends: whatever the user can mend is one line, and so are a signal, a closed pipe and a full disk."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

_CURSOR = "\x1b[?25h"  # shows it again: a progress bar hides it
_GOES_ON = ("build", "plan", "profile", "sweep")
_MENDABLE, _BROKEN_PIPE = 2, 128 + signal.SIGPIPE


class Stopped(KeyboardInterrupt):
    """SIGINT, SIGTERM or SIGHUP came."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


@contextlib.contextmanager
def orderly_end(verb: str) -> Iterator[None]:
    """Leave the body by SystemExit, if at all: 2 for what the user can mend, 128 + N after signal N, 141 where nobody
    reads any more. A second signal ends the process at once; what it leaves, the next build removes."""
    code, came = 0, list[int]()
    with contextlib.ExitStack() as stack:
        try:  # before the signals are heard, so that the first of them is caught
            stack.enter_context(_signals(came))
            yield
            _flush()
        except BaseException as error:
            # Some packages raise an error of their own for whatever ends their import, a signal among it
            code, text = _ending(Stopped(came[0]) if came else error, verb)
            if not code:
                raise
            _say(text)
    if code:
        _forget_output()
        sys.exit(code)


def _ending(error: BaseException, verb: str) -> tuple[int, str]:
    """The exit code and the line that is said, if any. 0: it is a fault of ours."""
    if isinstance(error, Stopped):
        return error.code, "stopped" + ("; the same command goes on from here" if verb in _GOES_ON else "")
    if isinstance(error, BrokenPipeError):
        return _BROKEN_PIPE, ""
    if isinstance(error, OSError):
        place = error.filename2 or error.filename  # of a copy that fails for want of space, where it was to go
        if place is None and error.errno == errno.ENOSPC:  # whoever writes a file names it
            place = "standard output"
        return _MENDABLE, (f"{place}: " if place else "") + (error.strerror or str(error))
    if isinstance(error, MemoryError):
        return _MENDABLE, f"out of memory ({error or 'no more is left'}); take smaller batches, or a machine with more"
    return (_MENDABLE, str(error)) if _is_mendable(error) else (0, "")


def _is_mendable(error: BaseException) -> bool:
    from cyclopts import CycloptsError
    from soda_runtime.errors import SodaError

    return isinstance(error, (CycloptsError, SodaError))


def _say(text: str) -> None:
    from .terminal import printable

    if text and sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(f"soda-export: {printable(' '.join(text.split()))}", file=sys.stderr)


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def _forget_output() -> None:
    """Let the interpreter find nothing that it cannot write when it ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
        return
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


@contextlib.contextmanager
def _signals(came: list[int]) -> Iterator[None]:
    """The first signal is an exception wherever the main thread is, and is put down in `came`; from then on the process
    is ending, and any further one ends it at once, until it is gone. One that is ignored, as nohup has it, stays so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:
            if sys.stderr is not None and sys.stderr.isatty():
                os.write(sys.stderr.fileno(), _CURSOR.encode())
            os._exit(128 + number)
        raise Stopped(number)

    heard = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in heard}
    try:
        for number, handler in before.items():
            if handler != signal.SIG_IGN:
                signal.signal(number, stop)
        yield
    finally:
        for number, handler in before.items():
            if handler is not None and not came:
                signal.signal(number, handler)
