"""Open and bind the steps of a playback in the background, in the order of their first use.

A bundle may have a dozen engines of gigabytes each. The first step waits for its own alone; a few threads open the
others from then on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from .errors import InternalError

Call = Callable[[], None]
_MOST_THREADS = 4


class StepCalls:
    """The calls of all steps: `calls[i]()` runs step i, and waits for its engine where it is not open yet."""

    def __init__(self, programs: Sequence[int], bind: Callable[[int], Call], at_once: bool, first: int = 0) -> None:
        """programs: what each step runs; steps with the same are bound together. bind(step) opens and binds. first: the
        step that runs first; those before it are not bound and must not be called.

        The first step is bound at once, or where `at_once` says so all of them. What goes wrong with another one is
        raised where its step is called.
        """
        self._bind, self._programs, self._at_once, self._first = bind, programs, at_once, first
        self._bound: dict[int, Future[None]] = {}
        self._placeholders: tuple[Call, ...] = ()
        if at_once:
            self.calls = [bind(step) if step >= first else _call_nothing for step in range(len(programs))]
            return
        self._placeholders = tuple(self._waiting(step, program) for step, program in enumerate(programs))
        self.calls = list(self._placeholders)
        bound = bind(first)

        def call_and_open() -> None:
            bound()
            self._open_others()

        self.calls[first] = call_and_open

    def wait(self) -> None:
        """Until every step is bound. Raises EngineError."""
        if not self._at_once:
            self._open_others()
        for future in self._bound.values():
            future.result()

    def close(self) -> None:
        """Do not open what is not being opened yet, and let go of every call: they hold each other and the buffers."""
        for future in self._bound.values():
            future.cancel()
        self.calls.clear()
        self._placeholders = ()
        self._bind = _refuse

    def _open_others(self) -> None:
        if self._bound:
            return
        kinds = dict.fromkeys(self._programs[self._first :])
        pool = ThreadPoolExecutor(max(1, min(_MOST_THREADS, os.cpu_count() or 1, len(kinds))), "soda-open")
        for kind in kinds:
            steps = [step for step, program in enumerate(self._programs) if program == kind and step > self._first]
            self._bound[kind] = pool.submit(self._bind_steps, steps)
        pool.shutdown(wait=False)

    def _waiting(self, step: int, program: int) -> Call:
        def call() -> None:
            self._open_others()
            self._bound[program].result()
            self.calls[step]()

        return call

    def _bind_steps(self, steps: Sequence[int]) -> None:
        placeholders, calls = self._placeholders, self.calls
        for step in steps:
            if not calls:  # closed
                return
            call = self._bind(step)
            if calls and calls[step] is placeholders[step]:
                calls[step] = call


def _call_nothing() -> None:
    raise InternalError("a step before the first one was called")


def _refuse(step: int) -> Call:
    raise InternalError(f"step {step} is bound after its playback was closed")
