"""The run-off of a search: finalists are judged on samples that nothing has seen, and the winner is fitted on more."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..plan.plan import HeldOut
from ..plan.schedule import Schedule
from ..sampler import SamplerTable
from .panel import Panel
from .refine import Measured, Search
from .trial import Trials

_UNSEEN_SHARE, _FEWEST_JUDGES = 0.5, 16  # of the samples of the last fit, so many judge; this many, or as many as those
_TINY = 1e-12
_FINALISTS, _PLANNERS_IN_FINAL = 4, 2


class Finalist(NamedTuple):
    """A schedule, its fitted sampler, and how it does on samples that played no part. typical: geometric mean of each
    one's RMSE, which rare samples that end elsewhere do not decide."""

    schedule: Schedule
    sampler: SamplerTable
    held_out: HeldOut
    typical: float
    by: str


class Pace(NamedTuple):
    """Seconds of a generation of one sample: play, by a finalist's schedule; full, with everything computed. recorded:
    samples whose full run there was already."""

    play: float
    full: float
    recorded: int

    def of_judges(self, count: int, finalists: float) -> float:
        """What it takes to judge so many finalists where the last fit has `count` samples."""
        return (self.full + finalists * self.play) * _judges(count)

    def of_refit(self, count: int) -> float:
        """What fitting on `count` samples takes, and judging that."""
        full = self.full if count > self.recorded else 0.0
        return (full + self.play) * count + self.play * _judges(count)


def judge(schedule: Schedule, seen: Trials, unseen: Trials, seen_rmse: float) -> HeldOut:
    """How a schedule, with the sampler of the `seen` trials, does on the unseen. seen_rmse: on the seen."""
    rmse = float(np.sqrt(unseen.held_out_errors(schedule, seen).mean()))
    return HeldOut(rmse, seen_rmse, len(unseen.samples), unseen.different_prompts, unseen.objective.name)


def geometric_mean(values: NDArray[np.float64]) -> float:
    """Of [n], each at least 0."""
    return float(np.exp(np.log(np.maximum(values, _TINY)).mean()))


def unseen_by(trials: Trials, samples: int) -> Trials:
    """What judges a fit on so many samples."""
    return trials.unseen(_judges(samples))


def _judges(samples: int) -> int:
    return max(min(samples, _FEWEST_JUDGES), round(_UNSEEN_SHARE * samples))


class RunOff:
    """pool: the search's own trials, or more that it chose from. samples: of the search. count: how many of the panel's
    samples the winner is fitted on; where they are more than the search's, it is fitted again."""

    def __init__(self, pool: Trials, panel: Panel, samples: int, count: int) -> None:
        self.refits, self._weights, self._count = count > samples, panel.weights(count), count
        self._judged, self._unseen = pool.with_samples(panel.choose(samples)), unseen_by(pool, count)
        self._many = pool.with_samples(panel.choose(count), self._weights) if self.refits else self._judged

    @staticmethod
    def seconds(samples: int, count: int, finalists: float, pace: Pace) -> float:
        """What it takes."""
        return pace.of_judges(count, finalists) + (pace.of_refit(count) if count > samples else 0.0)

    @classmethod
    def count(cls, samples: int, panel: Panel, finalists: float, pace: Pace, seconds: float) -> int:
        """How many samples the winner is fitted on."""
        return panel.multiple(samples, lambda count: cls.seconds(samples, count, finalists, pace), seconds)

    def seconds_of_one(self, pace: Pace) -> float:
        """What playing a finalist on the unseen samples takes."""
        return pace.play * _judges(self._count)

    def seconds_of_refit(self, pace: Pace) -> float:
        """What fitting the winner again takes, and playing it."""
        return pace.of_refit(self._count) if self.refits else 0.0

    def entrants(self, search: Search, leaders: list[str]) -> list[Measured]:
        """The best of the search first, then the best planners', then the others."""
        planners = [m for m in search.measured if m.by in leaders[:_PLANNERS_IN_FINAL]]
        first, *others = search.finalists(_FINALISTS)
        return list({m.schedule.work.tobytes(): m for m in (first, *planners, *others)}.values())

    def judge(self, schedule: Schedule, by: str) -> Finalist:
        """Play a schedule, as it was fitted by the search, on the unseen samples."""
        own = float(np.sqrt(self._judged.squared_errors(schedule).mean()))
        return self._finalist(schedule, self._judged, own, by)

    def refit(self, winner: Finalist) -> Finalist:
        """Fit to the winner's schedule on more samples, and play it again."""
        own = float(np.sqrt(self._weights @ self._many.squared_errors(winner.schedule)))
        return self._finalist(winner.schedule, self._many, own, winner.by)

    def _finalist(self, schedule: Schedule, seen: Trials, own: float, by: str) -> Finalist:
        held_out = judge(schedule, seen, self._unseen, own)
        typical = geometric_mean(np.sqrt(self._unseen.held_out_errors(schedule, seen)))
        return Finalist(schedule, seen.table_for(schedule), held_out, typical, by)
