"""Local search: small moves of a draft or a schedule, kept where the measured error of the final sample falls."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import pairwise
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..plan.planners.orders import limit_orders
from ..plan.schedule import Schedule
from .closed_loop import Way
from .draft import Draft, Realizer

T = TypeVar("T", Draft, Schedule)
C = TypeVar("C")
_STEPS_AT_ONCE = 75_000  # of all neighbours that are predicted before the first is measured: 54 steps have no more


class Measured(NamedTuple):
    """A schedule's error, and who made it."""

    error: float
    schedule: Schedule
    by: str


class Start(NamedTuple):
    """What local search may begin with: a measured schedule, and the draft that it realizes, if any."""

    measured: Measured
    draft: Draft | None = None


class Search:
    """Measures schedules until a deadline, and remembers the best of all.

    predict: what a schedule's error might be; of all neighbours those are measured first that promise most.
    judge: its error on samples that `measure` does not look at, once measured. Of many moves, some help on the measured
    samples alone: what helps there is judged, and taken where it is no worse here. Default: all are.
    """

    def __init__(
        self, realizer: Realizer, measure: Callable[[Schedule], float], predict: Callable[[Schedule], float],
        deadline: float, progress: Callable[[], None], judge: Callable[[Schedule], float] = lambda _: 0.0,
    ) -> None:  # fmt: skip
        self.realizer, self._measure, self._predict, self._judge = realizer, measure, predict, judge
        self._deadline, self._progress = deadline, progress
        self._seen: dict[bytes, Measured] = {}
        self.pace = 0.0
        """Seconds that a measurement takes, by the latest ones."""

    @property
    def over(self) -> bool:
        """Whether the time is up, or half of another measurement would not fit any more."""
        return time.perf_counter() + self.pace / 2 > self._deadline

    def try_schedule(self, schedule: Schedule, made_by: str) -> Measured:
        """Measure a schedule, once."""
        key = schedule.work.tobytes()
        if key not in self._seen:
            started = time.perf_counter()
            self._seen[key] = Measured(self._measure(schedule), schedule, made_by)
            self.pace = max(time.perf_counter() - started, self.pace / 2)
            self._progress()
        return self._seen[key]

    @property
    def measured(self) -> list[Measured]:
        """All that has been measured, in that order."""
        return list(self._seen.values())

    def finalists(self, count: int) -> list[Measured]:
        """The best schedules, best first."""
        return sorted(self.measured, key=lambda m: m.error)[:count]

    def promising(self, drafts: Iterable[Draft]) -> Iterator[tuple[Draft, Schedule]]:
        """Those that can be realized, in the order of the predicted error; none where the time is up before."""
        return self._by_promise(drafts, self.realizer.realize)

    def refine(self, starts: Iterable[Start]) -> None:
        """Move them as long as that helps and there is time, those first that are judged best."""
        judged = []
        for start in starts:
            if self.over:
                break
            judged.append((self._judge(start.measured.schedule), start))
        for error, start in sorted(judged, key=lambda pair: pair[0]):
            if start.draft:
                self._descend(start.draft, start.measured, error, self._moved)
            else:
                self._descend(start.measured.schedule, start.measured, error, self._exchanged)

    def _descend(
        self, at: T, measured: Measured, judged: float, neighbours: Callable[[T], Iterable[tuple[T, Schedule]]]
    ) -> None:
        """Take the first neighbour that helps, again and again, until none does or the time is up."""
        error, helped, made_by = measured.error, True, f"{measured.by}, refined"
        while helped and not self.over:
            helped = False
            for neighbour, schedule in neighbours(at):
                if self.over:
                    return
                found = self.try_schedule(schedule, made_by).error
                if found < error and not self.over and (there := self._judge(schedule)) <= judged:
                    at, error, judged, helped = neighbour, found, there, True
                    break

    def _moved(self, draft: Draft) -> Iterator[tuple[Draft, Schedule]]:
        """A draft's neighbours, most promising first, or in long runs the most promising of each part of them."""
        moves = list(self._moves(draft))
        for part in self._parts(len(moves)):
            yield from self.promising(dict.fromkeys(move() for move in moves[part]))

    def _exchanged(self, schedule: Schedule) -> Iterator[tuple[Schedule, Schedule]]:
        """A schedule's neighbours, with two of its steps in each other's place, in the same order."""

        def able(pair: NDArray[np.int64]) -> Schedule | None:
            other = _exchange(schedule, pair)
            return other if other.num_kinds <= self.realizer.max_engines else None

        pairs = _pairs(schedule)
        for part in self._parts(len(pairs)):
            yield from ((other, other) for _, other in self._by_promise(pairs[part], able))

    def _parts(self, count: int) -> Iterator[slice]:
        """Evenly spaced parts of that many neighbours, each of as many as are predicted at once; of short runs, all."""
        parts = max(1, -(-count * self.realizer.steps // _STEPS_AT_ONCE))
        for first in range(parts):
            if self.over:
                return
            yield slice(first, None, parts)

    def _by_promise(
        self, candidates: Iterable[C], make: Callable[[C], Schedule | None]
    ) -> Iterator[tuple[C, Schedule]]:
        """Those that can be made, in the order of the predicted error. Schedules are made again when their turn comes:
        all of them would not fit into memory."""
        found = []
        for candidate in candidates:
            if self.over:
                return
            if (schedule := make(candidate)) is not None:
                found.append((self._predict(schedule), candidate))
        for _, candidate in sorted(found, key=lambda pair: pair[0]):
            if (schedule := make(candidate)) is not None:
                yield candidate, schedule

    def _moves(self, draft: Draft) -> Iterator[Callable[[], Draft]]:
        """Neighbours, made when called: an anchor shifted, added or dropped, another way for an interval or for all,
        other partial steps."""
        steps, anchors, ways = self.realizer.steps, draft.anchors, draft.ways
        middles = [(first + end) // 2 for first, end in pairwise(anchors)]
        wide = [(j, middle) for j, middle in enumerate(middles) if middle != anchors[j]]
        for i in range(1, len(anchors)):
            end = anchors[i + 1] if i + 1 < len(anchors) else steps
            for shift in (-2, -1, 1, 2):
                place = anchors[i] + shift
                if anchors[i - 1] < place < end:
                    yield partial(draft.moved, anchors=(*anchors[:i], place, *anchors[i + 1 :]))
            dropped = draft.moved(anchors=(*anchors[:i], *anchors[i + 1 :]), ways=(*ways[:i], *ways[i + 1 :]))
            for place in draft.partial or (anchors[i],):
                yield partial(dropped.moved, partial=tuple(dict.fromkeys((place, anchors[i]))))
            for j, middle in wide:  # move an anchor into the middle of another interval
                if j not in (i - 1, i):
                    yield partial(_with_anchor, dropped, middle)
        for i, way in enumerate(ways):
            for other in self.realizer.ways:
                if other != way:
                    yield partial(draft.moved, ways=(*ways[:i], other, *ways[i + 1 :]))
        for way in self.realizer.ways:
            yield partial(draft.moved, ways=(way,) * len(ways))
        for step in range(1, steps):
            if step not in anchors:
                yield partial(draft.moved, partial=(step,))
                yield partial(_with_anchor, draft, step)


def _pairs(schedule: Schedule) -> NDArray[np.int64]:
    """[N, 2], steps that do not do the same. Step 0 stays."""
    kinds = np.unique(schedule.work, axis=0, return_inverse=True)[1].reshape(-1)
    pairs = np.stack(np.triu_indices(schedule.steps - 1, 1), axis=1) + 1
    different: NDArray[np.int64] = pairs[kinds[pairs[:, 0]] != kinds[pairs[:, 1]]]
    return different


def _exchange(schedule: Schedule, pair: NDArray[np.int64]) -> Schedule:
    """The schedule with what two of its steps do exchanged: as much work, by no more engines, and as many anchors."""
    order = np.arange(schedule.steps)
    order[pair] = pair[::-1]
    return limit_orders(Schedule(schedule.work[order]))


def _with_anchor(draft: Draft, step: int) -> Draft:
    """One more anchor; both halves of the interval keep its way."""
    i = sum(1 for anchor in draft.anchors if anchor < step)
    way: Way = draft.ways[i - 1]
    return draft.moved(
        anchors=(*draft.anchors[:i], step, *draft.anchors[i:]), ways=(*draft.ways[:i], way, *draft.ways[i:])
    )
