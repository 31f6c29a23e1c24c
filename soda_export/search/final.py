"""The run-off of a search: finalists are judged on samples that nothing has seen, and the winner is fitted on more."""

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
    return trials.unseen(_judges(samples))


def _judges(samples: int) -> int:
    return max(1, round(_UNSEEN_SHARE * samples))


class RunOff:
    """judged: the search's own trials. count: how many of the panel's samples the winner is fitted on; where they are
    more than the search's, it is fitted again. ratio: what computing everything takes, in generations of a finalist."""

    def __init__(self, judged: Trials, panel: Panel, count: int, ratio: float) -> None:
        self._samples, self._count, self._ratio = len(judged.samples), count, ratio
        self.refits = count > self._samples
        self._judged, self._weights, self._unseen = judged, panel.weights(count), unseen_by(judged, count)
        self._many = judged.with_samples(panel.choose(count), self._weights) if self.refits else judged

    @staticmethod
    def seconds(samples: int, count: int, ratio: float, finalists: float, pace: float) -> float:
        """What it takes. pace: seconds of one generation of one sample; `ratio` times that with everything computed."""
        return pace * (ratio + finalists) * _judges(count) + _seconds_of_refit(samples, count, ratio, pace)

    @classmethod
    def count(cls, samples: int, ratio: float, finalists: float, pace: float, seconds: float) -> int:
        """How many samples the winner is fitted on: a power of two times those of the search, MORE_SAMPLES times at
        most, and at least theirs."""
        count = MORE_SAMPLES * samples
        while count > samples and cls.seconds(samples, count, ratio, finalists, pace) > seconds:
            count //= 2
        return count

    def seconds_of_one(self, pace: float) -> float:
        """What playing a finalist on the unseen samples takes."""
        return pace * _judges(self._count)

    def seconds_of_refit(self, pace: float) -> float:
        """What fitting the winner again takes, and playing it."""
        return _seconds_of_refit(self._samples, self._count, self._ratio, pace)

    def entrants(self, search: Search, leaders: list[str]) -> list[Measured]:
        """The best of the search first, then the best planners', then the others."""
        planners = [m for m in search.measured if m.by in leaders[:_PLANNERS_IN_FINAL]]
        first, *others = search.finalists(_FINALISTS)
        return list({m.schedule.work.tobytes(): m for m in (first, *planners, *others)}.values())

    def judge(self, schedule: Schedule, by: str) -> Finalist:
        """Play a schedule, as it was fitted by the search, on the unseen samples."""
        own = float(np.sqrt(self._judged.squared_errors(schedule).mean()))
        held_out = judge(schedule, self._judged, self._unseen, own)
        return Finalist(schedule, self._judged.table_for(schedule), held_out, by)

    def refit(self, winner: Finalist) -> Finalist:
        """Fit to the winner's schedule on more samples, and play it again."""
        own = float(np.sqrt(self._weights @ self._many.squared_errors(winner.schedule)))
        held_out = judge(winner.schedule, self._many, self._unseen, own)
        return winner._replace(sampler=self._many.table_for(winner.schedule), held_out=held_out)


def _seconds_of_refit(samples: int, count: int, ratio: float, pace: float) -> float:
    return pace * ((1 + ratio) * count + _judges(count)) if count > samples else 0.0
