"""Local search: small moves of a draft, kept where the measured error of the final sample falls."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from ..plan.schedule import Schedule
from .closed_loop import WAYS, Way
from .draft import Draft, Realizer


class Measured(NamedTuple):
    """A schedule's error, and who made it."""

    error: float
    schedule: Schedule
    by: str


class Search:
    """Measures drafts until a deadline, and remembers the best schedules of all."""

    def __init__(
        self, realizer: Realizer, measure: Callable[[Schedule], float], deadline: float,
        progress: Callable[[], None], seed: int = 0,
    ) -> None:  # fmt: skip
        self.realizer, self._measure, self._deadline, self._progress = realizer, measure, deadline, progress
        self._random = np.random.default_rng(seed)
        self._seen: dict[Draft, float] = {}
        self.measured: list[Measured] = []

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return time.perf_counter() > self._deadline

    def try_schedule(self, schedule: Schedule, made_by: str) -> float:
        """Measure a finished schedule."""
        error = self._measure(schedule)
        self.measured.append(Measured(error, schedule, made_by))
        self._progress()
        return error

    def finalists(self, count: int) -> list[Measured]:
        """The best different schedules, best first."""
        unique = {(m.schedule.kept.tobytes(), m.schedule.stack.tobytes()): m for m in reversed(self.measured)}
        return sorted(unique.values(), key=lambda m: m.error)[:count]

    def try_draft(self, draft: Draft, made_by: str) -> float:
        """Measure a draft; infinite where it cannot be realized."""
        if draft not in self._seen:
            schedule = self.realizer.realize(draft)
            self._seen[draft] = np.inf if schedule is None else self.try_schedule(schedule, made_by)
        return self._seen[draft]

    def refine(self, draft: Draft, made_by: str) -> tuple[Draft, float]:
        """Take the first move that helps, again and again, until none does or the time is up."""
        error = self.try_draft(draft, made_by)
        while not self.over:
            moves = list(dict.fromkeys(self._moves(draft)))
            for i in self._random.permutation(len(moves)):
                if self.over:
                    break
                found = self.try_draft(moves[i], made_by)
                if found < error:
                    draft, error = moves[i], found
                    break
            else:
                break
        return draft, error

    def _moves(self, draft: Draft) -> Iterator[Draft]:
        """Neighbours: an anchor shifted, added or dropped, another way for an interval or for all, other partial
        steps."""
        steps, anchors, ways = self.realizer.steps, draft.anchors, draft.ways
        for i in range(1, len(anchors)):
            end = anchors[i + 1] if i + 1 < len(anchors) else steps
            for shift in (-2, -1, 1, 2):
                place = anchors[i] + shift
                if anchors[i - 1] < place < end:
                    yield draft.moved(anchors=(*anchors[:i], place, *anchors[i + 1 :]))
            dropped = draft.moved(anchors=(*anchors[:i], *anchors[i + 1 :]), ways=(*ways[:i], *ways[i + 1 :]))
            for place in draft.partial or (anchors[i],):
                yield dropped.moved(partial=tuple(dict.fromkeys((place, anchors[i]))))
            for j in range(len(anchors) - 1):  # move an anchor into the middle of another interval
                middle = (anchors[j] + anchors[j + 1]) // 2
                if j not in (i - 1, i) and middle not in anchors:
                    yield _with_anchor(dropped, middle)
        for i, way in enumerate(ways):
            yield from (draft.moved(ways=(*ways[:i], w, *ways[i + 1 :])) for w in WAYS if w != way)
        for way in WAYS:
            yield draft.moved(ways=(way,) * len(ways))
        for step in range(1, steps):
            if step not in anchors:
                yield draft.moved(partial=(step,))
                yield _with_anchor(draft, step)


def _with_anchor(draft: Draft, step: int) -> Draft:
    """One more anchor; both halves of the interval keep its way."""
    i = sum(1 for anchor in draft.anchors if anchor < step)
    way: Way = draft.ways[i - 1]
    return draft.moved(
        anchors=(*draft.anchors[:i], step, *draft.anchors[i:]), ways=(*draft.ways[:i], way, *draft.ways[i:])
    )
