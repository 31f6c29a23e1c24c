"""The run-off of a search: finalists are fitted on more samples, and judged on samples that nothing has seen."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..plan.plan import HeldOut
from ..plan.schedule import Schedule
from ..sampler import SamplerTable
from .panel import Panel
from .refine import Measured, Search
from .trial import Trials

MORE_SAMPLES = 4
"""Times the samples of the search, for the last fit."""
_UNSEEN_SHARE = 0.5  # of the samples of the last fit, so many judge
_FINALISTS, _PLANNERS_IN_FINAL = 4, 2


class Finalist(NamedTuple):
    """A schedule, its fitted sampler, and how it does on samples that played no part."""

    schedule: Schedule
    sampler: SamplerTable
    held_out: HeldOut
    by: str


def judge(schedule: Schedule, seen: Trials, unseen: Trials, seen_rmse: float) -> HeldOut:
    """How a schedule, with the sampler of the `seen` trials, does on the unseen. seen_rmse: on the seen."""
    rmse = float(np.sqrt(unseen.held_out_errors(schedule, seen).mean()))
    return HeldOut(rmse, seen_rmse, len(unseen.samples), unseen.different_prompts, unseen.objective.name)


def unseen_by(trials: Trials, samples: int) -> Trials:
    """What judges a fit on so many samples."""
    return trials.unseen(max(1, round(_UNSEEN_SHARE * samples)))


class RunOff:
    """judged: the search's own trials. count: how many of the panel's samples the finalists are fitted on."""

    def __init__(self, judged: Trials, panel: Panel, count: int) -> None:
        self._is_more = count > len(judged.samples)
        self._weights = panel.weights(count)
        self._many = judged.with_samples(panel.choose(count), self._weights) if self._is_more else judged
        self._unseen = unseen_by(judged, count)

    @staticmethod
    def count(samples: int, pace: float, seconds: float) -> int:
        """How many samples the finalists are fitted on: a power of two times those of the search, MORE_SAMPLES times at
        most, and at least theirs. pace: seconds for all finalists that each sample takes."""
        count = MORE_SAMPLES * samples
        while count > samples and (1 + _UNSEEN_SHARE) * pace * count > seconds:
            count //= 2
        return count

    @classmethod
    def seconds(cls, samples: int, pace: float, most: float) -> float:
        """Seconds to keep for the run-off, `most` at most."""
        count = cls.count(samples, pace, most)
        return min(most, pace * count * (_UNSEEN_SHARE + (count > samples)))

    def seconds_each(self, pace: float) -> float:
        """What one finalist takes."""
        return pace * (len(self._unseen.samples) + (len(self._many.samples) if self._is_more else 0))

    def entrants(self, search: Search, leaders: list[str]) -> list[Measured]:
        """The best of the search first, then the best planners', then the others."""
        planners = [m for m in search.measured if m.by in leaders[:_PLANNERS_IN_FINAL]]
        first, *others = search.finalists(_FINALISTS)
        return list({m.schedule.work.tobytes(): m for m in (first, *planners, *others)}.values())

    def judge(self, measured: Measured) -> Finalist:
        """Fit to a schedule, and play it on the unseen samples."""
        schedule, weights = measured.schedule, self._weights if self._is_more else None
        squares = self._many.squared_errors(schedule)
        seen_rmse = float(np.sqrt(squares.mean() if weights is None else weights @ squares))
        held_out = judge(schedule, self._many, self._unseen, seen_rmse)
        return Finalist(schedule, self._many.table_for(schedule), held_out, measured.by)
