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
    code = 0
    with contextlib.ExitStack() as stack:
        try:  # before the signals are heard, so that the first of them is caught
            stack.enter_context(_signals())
            yield
            _flush()
        except Stopped as stop:
            code = stop.code
            _say("stopped" + ("; the same command goes on from here" if verb in _GOES_ON else ""))
        except BrokenPipeError:
            code = _BROKEN_PIPE
        except OSError as error:
            code = _MENDABLE
            place = error.filename2 or error.filename  # of a copy that fails for want of space, where it was to go
            if place is None and error.errno == errno.ENOSPC:  # whoever writes a file names it
                place = "standard output"
            _say((f"{place}: " if place else "") + (error.strerror or str(error)))
        except MemoryError as error:
            code = _MENDABLE
            _say(f"out of memory ({error or 'no more is left'}); take smaller batches, or a machine with more")
        except Exception as error:
            if not _is_mendable(error):
                raise
            code = _MENDABLE
            _say(str(error))
    if code:
        _forget_output()
        sys.exit(code)


def _is_mendable(error: Exception) -> bool:
    from cyclopts import CycloptsError
    from soda_runtime.errors import SodaError

    return isinstance(error, (CycloptsError, SodaError))


def _say(text: str) -> None:
    from .terminal import printable

    if sys.stderr is not None:
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
def _signals() -> Iterator[None]:
    """The first signal is an exception wherever the main thread is. One that is ignored, as nohup has it, stays so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

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
            if handler is not None:
                signal.signal(number, handler)
