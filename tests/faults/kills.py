"""Kill verbs with SIGKILL, at random moments and before random changes of the file system; look at what they left."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

from .cases import CASES, Case
from .places import Places


@dataclass(frozen=True)
class Kill:
    """What a kill met. moment: `1.23 s`, or `change 17`. died: whether the verb was killed before its end. there:
    outputs that were there, whole."""

    case: str
    moment: str
    died: bool
    there: int


class Campaign:
    """Kills of every case over one toy model."""

    def __init__(self, places: Places, seed: int = 0) -> None:
        self._places, self._chance = places, random.Random(seed)

    def kills(self, rounds: int) -> Iterator[Kill]:
        """Cases by their shares, in random order; every other one is killed by the clock. AssertionError says what was
        wrong, and where the place is that shows it."""
        cases = [case for case in CASES for _ in range(case.share)]
        order = [case for _ in range(rounds // len(cases) + 1) for case in self._chance.sample(cases, len(cases))]
        for number, case in enumerate(order[:rounds]):
            yield self.kill(case, number, by_clock=number % 2 == 0)

    def kill(self, case: Case, number: int, by_clock: bool) -> Kill:
        """One kill, what it left, and the run after it. number: of the place."""
        done = self._places.expected(case).done
        place = self._places.prepare(case, self._places.scratch / f"round{number}")
        if by_clock:
            seconds = self._chance.uniform(0.0, 1.1 * done.seconds)
            killed, moment = self._places.run(case, place, after_s=seconds), f"{seconds:.2f} s"
        else:
            change = self._chance.randint(1, done.changes)
            killed, moment = self._places.run(case, place, before_change=change), f"change {change}"
        where = f"{case.name}, killed at {moment}, in {place}"
        assert killed.code in (0, -9), f"{where}: {killed.error}"
        there = self._places.check_left(case, place, where)
        self._places.check_next_run(case, place, where)
        shutil.rmtree(place)
        return Kill(case.name, moment, killed.code == -9, there)
