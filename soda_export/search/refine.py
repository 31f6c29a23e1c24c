"""Local search: small moves of a draft or a schedule, kept where the measured error of the final sample falls."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np

from ..plan.planners.orders import limit_orders
from ..plan.schedule import Schedule
from .closed_loop import Way
from .draft import Draft, Realizer

T = TypeVar("T", Draft, Schedule)


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

    def promising(self, drafts: Iterable[Draft]) -> list[tuple[Draft, Schedule]]:
        """Those that can be realized, in the order of the predicted error."""
        made = ((draft, self.realizer.realize(draft)) for draft in drafts)
        able = [(draft, schedule) for draft, schedule in made if schedule is not None]
        return sorted(able, key=lambda pair: self._predict(pair[1]))

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

    def _moved(self, draft: Draft) -> list[tuple[Draft, Schedule]]:
        """A draft's neighbours, most promising first."""
        return self.promising(dict.fromkeys(self._moves(draft)))

    def _exchanged(self, schedule: Schedule) -> list[tuple[Schedule, Schedule]]:
        """A schedule's neighbours, with two of its steps in each other's place, most promising first."""
        most = self.realizer.max_engines
        found = [other for other in _exchanges(schedule) if other.num_kinds <= most]
        return [(other, other) for other in sorted(found, key=self._predict)]

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
            yield from (draft.moved(ways=(*ways[:i], w, *ways[i + 1 :])) for w in self.realizer.ways if w != way)
        for way in self.realizer.ways:
            yield draft.moved(ways=(way,) * len(ways))
        for step in range(1, steps):
            if step not in anchors:
                yield draft.moved(partial=(step,))
                yield _with_anchor(draft, step)


def _exchanges(schedule: Schedule) -> Iterator[Schedule]:
    """The schedule with what two of its steps do exchanged: as much work, by no more engines, and as many anchors.
    Step 0 stays."""
    for i in range(1, schedule.steps):
        for j in range(i + 1, schedule.steps):
            if (schedule.work[i] != schedule.work[j]).any():
                order = np.arange(schedule.steps)
                order[[i, j]] = j, i
                yield limit_orders(Schedule(schedule.work[order]))


def _with_anchor(draft: Draft, step: int) -> Draft:
    """One more anchor; both halves of the interval keep its way."""
    i = sum(1 for anchor in draft.anchors if anchor < step)
    way: Way = draft.ways[i - 1]
    return draft.moved(
        anchors=(*draft.anchors[:i], step, *draft.anchors[i:]), ways=(*draft.ways[:i], way, *draft.ways[i:])
    )
