"""The run-off of a search: finalists are compared on samples that it did not look at, the winner is fitted on more, and
what is reported of it comes from prompts that nothing has seen, but for that comparison where no other samples are
recorded."""

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


class Jury:
    """Compares schedules, as they are fitted on the `searched` samples, on others."""

    def __init__(self, trials: Trials, searched: Trials) -> None:
        self._trials, self._searched = trials, searched
        self._errors: dict[bytes, float] = {}

    @classmethod
    def left_out(cls, pool: Trials, searched: Trials, count: int) -> Jury | None:
        """As many as judge a fit on `count` samples of those that the search leaves out of the pool, whose full runs
        there are: typical ones before sensitive ones. None where there are fewer."""
        others, judges = [sample for sample in pool.samples if sample not in searched.samples], _judges(count)
        return cls(pool.with_samples(others[-judges:]), searched) if len(others) >= judges else None

    def typical_error(self, schedule: Schedule) -> float:
        """The mean of each sample's RMSE. Rare samples that end elsewhere do not decide, as they would in the RMSE of
        all, nor are they next to nothing, as they would be in a geometric mean."""
        key = schedule.work.tobytes()
        if key not in self._errors:
            self._errors[key] = float(np.sqrt(self._trials.held_out_errors(schedule, self._searched)).mean())
        return self._errors[key]

    def knows(self, measured: Measured) -> bool:
        """Whether it has compared it with others already."""
        return measured.schedule.work.tobytes() in self._errors

    def seconds_of_one(self, pace: Pace) -> float:
        """What comparing one more takes."""
        return pace.play * len(self._trials.samples)


class RunOff:
    """pool: samples whose full runs there are. searched: the search's own trials. count: how many of the panel's
    samples the winner is fitted on. jury: what compares finalists; None = the unseen samples that the winner is
    reported on."""

    def __init__(self, pool: Trials, searched: Trials, panel: Panel, count: int, jury: Jury | None) -> None:
        self._searched, self._unseen, self._weights = searched, unseen_by(pool, count), panel.weights(count)
        self.jury = jury or Jury(self._unseen, searched)
        self.refits = count > len(searched.samples)
        self._many = pool.with_samples(panel.choose(count)) if self.refits else searched

    @classmethod
    def seconds(cls, samples: int, count: int, finalists: float, pace: Pace) -> float:
        """What it takes."""
        return finalists * pace.play * _judges(count) + cls.seconds_to_conclude(samples, count, pace)

    @classmethod
    def count(cls, samples: int, panel: Panel, finalists: float, pace: Pace, seconds: float) -> int:
        """How many samples the winner is fitted on."""
        return panel.multiple(samples, lambda count: cls.seconds(samples, count, finalists, pace), seconds)

    @staticmethod
    def seconds_to_conclude(samples: int, count: int, pace: Pace) -> float:
        """What fitting the winner again takes, if it is, and reporting on it."""
        refit = count * (pace.play + (pace.full if count > pace.recorded else 0.0))
        return (refit if count > samples else 0.0) + (pace.full + pace.play) * _judges(count)

    def entrants(self, search: Search, leaders: list[str]) -> list[Measured]:
        """What is compared already, the best of the search, the best planners', then the others."""
        known = [m for m in search.measured if self.jury.knows(m)]
        planners = [m for m in search.measured if m.by in leaders[:_PLANNERS_IN_FINAL]]
        first, *others = search.finalists(_FINALISTS)
        return list({m.schedule.work.tobytes(): m for m in (*known, first, *planners, *others)}.values())

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
