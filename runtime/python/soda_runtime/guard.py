"""Who may use what has been opened: the process that opened it, and of a session one caller at a time.

A fork has the parent's memory and none of its threads, which engine libraries wait for: a call may hang there, and so
may freeing. So in a fork everything that was opened before refuses to be used and is never freed.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from .errors import EngineError, RequestError

_MOST_REST_SECONDS, _RESTS = 2.0, 3
_opened: weakref.WeakSet[object] = weakref.WeakSet()


class OpenedHere:
    """Belongs to the process that made it."""

    def __init__(self) -> None:
        self._process = os.getpid()
        _opened.add(self)

    @property
    def is_here(self) -> bool:
        """Whether this is the process that opened it."""
        return os.getpid() == self._process

    def require_here(self) -> None:
        """Raises EngineError in a fork."""
        if not self.is_here:
            raise EngineError(
                f"opened in process {self._process}, used in its fork {os.getpid()}, which has none of the engine "
                f"library's threads; open the bundle after the fork, or start processes with `spawn`"
            )


class Turn:
    """One caller at a time; whoever comes meanwhile is refused, or waits. What the caller calls back may look."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._called_back = 0  # the thread that is in a callback

    def take(self, wait: bool = False, looks: bool = False) -> bool:
        """Take it; whether it must be given back. looks: changes nothing, so that a callback of the one who has it may
        do it too. Raises RequestError where another one has it."""
        if self._called_back == threading.get_ident():
            if not looks:
                raise RequestError("on_step may look at its session and cancel, but not play, reset or close it")
            return False
        if not self._lock.acquire(blocking=wait):
            raise RequestError(
                "the session is busy: another call plays it still; wait for that, or give each thread its own session"
            )
        return True

    def give_back(self) -> None:
        """After `take`."""
        self._lock.release()

    @contextmanager
    def taken(self, wait: bool = False, looks: bool = False) -> Iterator[None]:
        """While the caller has it; arguments and errors as of `take`."""
        is_held = self.take(wait, looks)
        try:
            yield
        finally:
            if is_held:
                self.give_back()

    @contextmanager
    def calling_back(self) -> Iterator[None]:
        """While the one who has it calls back."""
        self._called_back = threading.get_ident()
        try:
            yield
        finally:
            self._called_back = 0


@cache
def rest_before_forks() -> None:
    """From now on a fork first waits, 2 s at most, until no other thread of the process runs, in three looks one after
    the other: a thread that waits for a lock looks as if it rested.

    For a library whose threads leave their pool a moment after the last request: a fork in that moment would wait for
    them for ever when it ends. Where another thread plays on, that moment never comes, and the wait is in vain.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_let_threads_rest)


def _let_threads_rest() -> None:
    end, rests = time.monotonic() + _MOST_REST_SECONDS, 0
    while _opened and rests < _RESTS and time.monotonic() < end:
        rests = 0 if _others_run() else rests + 1
        time.sleep(0.002)


def _others_run() -> bool:
    own = str(threading.get_native_id())
    try:
        others = [task for task in Path("/proc/self/task").iterdir() if task.name != own]
        return any((task / "stat").read_text().rpartition(")")[2].split()[0] == "R" for task in others)
    except OSError:  # a thread that has ended; or no /proc
        return Path("/proc/self/task").is_dir()


def _keep_for_ever() -> None:
    for each in list(_opened):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(each))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_for_ever)
