"""Which calibration samples a search looks at: half of them those that any change of the schedule moves most.

A few samples carry most of an RMSE, and they are the same for every planner's schedule (of 128 digits one, for all
eleven): the sampler passes close to a fork there. A handful drawn at random rarely holds such a sample, so two quick
schedules are played on many, and those on which they differ most are sure of a seat. Weights make up for that: a
weighted mean over the panel estimates the mean over all samples. Where there is no time to play on as many samples as
the last fit may want, they are taken as they come.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..plan.schedule import Schedule
from .held_out import seen_numbers
from .objective import mean_squares
from .trial import MORE_SAMPLES, Trials

_MOST_BATCHES = 16  # of as many samples as the search has
_FURTHER = 4  # times as many batches as an earlier search had must fit into the time, or they are taken as they are
_EVERY, _ORDERS = 3, (0, 2)  # the two schedules: every third step computed, the rest reused or forecast


@dataclass(frozen=True)
class Panel:
    """Sample numbers of a pool, most sensitive first; measured: whether that is known, else all count alike."""

    ranked: tuple[int, ...]
    measured: bool = True

    def choose(self, count: int) -> tuple[int, ...]:
        """The most sensitive, and as many others in the order of their numbers; all where there are no more. A larger
        choice has the smaller one in it."""
        sensitive = self.ranked[: self._sensitive(count)]
        others = sorted(set(self.ranked) - set(sensitive))
        return (*sensitive, *others[: count - len(sensitive)])

    def weights(self, count: int) -> NDArray[np.float64]:
        """What share of the pool each of the chosen stands for; they add up to 1."""
        chosen, pool = len(self.choose(count)), len(self.ranked)
        sensitive = self._sensitive(count)
        each = (pool - sensitive) / max(1, chosen - sensitive)
        weights: NDArray[np.float64] = np.where(np.arange(chosen) < sensitive, 1.0, each) / pool
        return weights

    def multiple(self, samples: int, seconds_of: Callable[[int], float], seconds: float) -> int:
        """How many samples to take where the search has `samples`: a power of two times those, MORE_SAMPLES times or
        all there are at most, as many as fit into `seconds`, and at least those."""
        count = MORE_SAMPLES * samples
        while count > samples and (count > len(self.ranked) or seconds_of(count) > seconds):
            count //= 2
        return count

    def _sensitive(self, count: int) -> int:
        return min(count // 2, len(self.ranked)) if self.measured else 0


def draw_panel(trials: Trials, seconds: float, progress: Callable[[], None]) -> Panel:
    """Rank as many samples as `seconds` allow; where they are fewer than the last fit may want, take some as they come.

    Whatever the budget, the same two schedules judge: searches for several budgets share what is measured. More are
    ranked than in an earlier search where there is far more time: the same command goes on as it began.
    """
    size, steps, journal = len(trials.samples), trials.sampler.steps, trials.journal
    pilots = [Schedule.at_anchors(trials.spec, steps, tuple(range(0, steps, _EVERY)), order) for order in _ORDERS]
    keys = [f"sensitivity of {size} seen samples from number {batch * size} on" for batch in range(_MOST_BATCHES)]
    done = sum(journal.get(key) is not None for key in keys)
    wanted = max(MORE_SAMPLES, _FURTHER * done)
    if wanted * sum(len(pilot.anchors) for pilot in pilots) * trials.seconds_a_call() > seconds:
        keys = keys[:done]
    moved, played, started = list[float](), 0, time.perf_counter()
    for batch, key in enumerate(keys):
        if (known := journal.get(key)) is None:
            if played and (time.perf_counter() - started) * (played + 1) / played > seconds:
                break
            some = trials.seen(size, batch * size)
            ends = [some.play(pilot, some.sampler) for pilot in pilots]
            journal.add(key, known := mean_squares(ends[0] - ends[1]))
            played += 1
            progress()
        moved += known
    if len(moved) < MORE_SAMPLES * size:
        return Panel(seen_numbers(MORE_SAMPLES * size, trials.prompts), measured=False)
    numbers = seen_numbers(len(moved), trials.prompts)
    return Panel(tuple(numbers[i] for i in np.argsort(moved)[::-1]))
