"""A request's whole loop as one call: recorded into a CUDA graph where that is possible, run step by step where not."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Literal

from ..errors import EngineError
from .cuda import Cuda, Graph

GraphMode = Literal["auto", "on", "off"]


class Loop:
    """Runs calls in order. moves(): a number that changes when an address that the calls use has changed.

    off: never recorded. auto: recorded at the second run, since libraries do what they put off at the first. on: run
    once on zeros and recorded before the first request, which must not be under way.
    """

    def __init__(
        self, cuda: Cuda, calls: Sequence[Callable[[], None]], mode: GraphMode, moves: Callable[[], int]
    ) -> None:
        self._cuda, self._calls, self._mode, self._moves = cuda, tuple(calls), mode, moves
        self._graph: Graph | None = None
        self._recorded_at = self._ran_at = -1
        if mode == "on":
            self._run()
            self._record()

    @property
    def is_recorded(self) -> bool:
        """Whether the next run is one launch."""
        return self._graph is not None and self._recorded_at == self._moves()

    def __call__(self) -> None:
        """Put the whole loop into the stream."""
        if not self.is_recorded and self._mode != "off" and self._ran_at == self._moves():
            self._record()
        if self.is_recorded and self._graph is not None:
            self._graph.launch()
        else:
            self._run()

    def _run(self) -> None:
        for call in self._calls:
            call()
        self._ran_at = self._moves()

    def _record(self) -> None:
        self._graph = None  # the old one is destroyed before another is made
        try:
            self._graph = self._cuda.capture(self._run)
            self._recorded_at = self._moves()
        except EngineError as error:
            self._mode = "off"
            warnings.warn(f"no CUDA graph, steps are launched one by one: {error}", RuntimeWarning, stacklevel=3)
