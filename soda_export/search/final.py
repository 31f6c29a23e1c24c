"""The run-off of a search: finalists are compared on samples that it did not look at, the winner is fitted on more, and
what is reported of it comes from samples that nothing has seen."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..plan.plan import HeldOut
from ..plan.schedule import Schedule
from .panel import Panel
from .refine import Measured, Search
from .trial import Trials

_UNSEEN_SHARE, _FEWEST_JUDGES = 0.5, 16  # of the samples of the last fit, so many judge; this many, or as many as those
_FINALISTS, _PLANNERS_IN_FINAL = 4, 2


class Finalist(NamedTuple):
    """A schedule, and the trials whose fit it takes, with its RMSE there."""

    schedule: Schedule
    by: str
    fitted: Trials
    rmse: float


class Pace(NamedTuple):
    """Seconds of a generation of one sample: play, by a finalist's schedule; full, with everything computed. recorded:
    samples whose full run there is already."""

    play: float
    full: float
    recorded: int


def judge(schedule: Schedule, seen: Trials, unseen: Trials, seen_rmse: float) -> HeldOut:
    """How a schedule, with the sampler of the `seen` trials, does on the unseen. seen_rmse: on the seen."""
    rmse = float(np.sqrt(unseen.held_out_errors(schedule, seen).mean()))
    return HeldOut(rmse, seen_rmse, len(unseen.samples), unseen.different_prompts, unseen.objective.name)


def unseen_by(trials: Trials, samples: int) -> Trials:
    """What judges a fit on so many samples."""
    return trials.unseen(_judges(samples))


def _judges(samples: int) -> int:
    return max(min(samples, _FEWEST_JUDGES), round(_UNSEEN_SHARE * samples))


class RunOff:
    """pool: samples whose full runs there are. searched: the search's own trials. count: how many of the panel's
    samples the winner is fitted on.

    Finalists are compared on those of the pool that the search left out, whose full runs are there; where they are too
    few, on the unseen ones that the winner is reported on.
    """

    def __init__(self, pool: Trials, searched: Trials, panel: Panel, count: int) -> None:
        self._searched, self._unseen, self._weights = searched, unseen_by(pool, count), panel.weights(count)
        self.refits = count > len(searched.samples)
        self._many = pool.with_samples(panel.choose(count)) if self.refits else searched
        left_out = [sample for sample in pool.samples if sample not in searched.samples]
        judges = _judges(count)
        self._judges = pool.with_samples(left_out[:judges]) if len(left_out) >= judges else self._unseen

    @classmethod
    def seconds(cls, samples: int, count: int, finalists: float, pace: Pace) -> float:
        """What it takes."""
        return finalists * cls.seconds_of_one(count, pace) + cls.seconds_to_conclude(samples, count, pace)

    @classmethod
    def count(cls, samples: int, panel: Panel, finalists: float, pace: Pace, seconds: float) -> int:
        """How many samples the winner is fitted on."""
        return panel.multiple(samples, lambda count: cls.seconds(samples, count, finalists, pace), seconds)

    @staticmethod
    def seconds_of_one(count: int, pace: Pace) -> float:
        """What comparing one finalist takes."""
        return pace.play * _judges(count)

    @staticmethod
    def seconds_to_conclude(samples: int, count: int, pace: Pace) -> float:
        """What fitting the winner again takes, if it is, and reporting on it."""
        refit = count * (pace.play + (pace.full if count > pace.recorded else 0.0))
        return (refit if count > samples else 0.0) + (pace.full + pace.play) * _judges(count)

    def entrants(self, search: Search, leaders: list[str]) -> list[Measured]:
        """The best of the search first, then the best planners', then the others."""
        planners = [m for m in search.measured if m.by in leaders[:_PLANNERS_IN_FINAL]]
        first, *others = search.finalists(_FINALISTS)
        return list({m.schedule.work.tobytes(): m for m in (first, *planners, *others)}.values())

    def typical_error(self, measured: Measured) -> float:
        """Of a schedule, as it was fitted by the search, on samples that it did not look at: the mean of each one's
        RMSE. Rare samples that end elsewhere do not decide, as they would in the RMSE of all, nor are they next to
        nothing, as they would be in a geometric mean."""
        return float(np.sqrt(self._judges.held_out_errors(measured.schedule, self._searched)).mean())

    def enter(self, measured: Measured) -> Finalist:
        """A schedule as it was fitted by the search."""
        own = float(np.sqrt(self._searched.squared_errors(measured.schedule).mean()))
        return Finalist(measured.schedule, measured.by, self._searched, own)

    def refit(self, winner: Finalist) -> Finalist:
        """The winner with its sampler fitted on more samples."""
        own = float(np.sqrt(self._weights @ self._many.squared_errors(winner.schedule)))
        return winner._replace(fitted=self._many, rmse=own)

    def report(self, winner: Finalist) -> HeldOut:
        """How it does on samples that nothing has seen."""
        return judge(winner.schedule, winner.fitted, self._unseen, winner.rmse)
