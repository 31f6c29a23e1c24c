"""FLOPs of many schedules of one problem, fast: what each site costs, by what it does."""

from __future__ import annotations

import numpy as np

from ...models.decisions import COMPUTE, MAX_ORDER
from ..problem import Problem
from ..schedule import Schedule


class FlopsTable:
    """The same numbers as Schedule.flops, for a whole run at once."""

    def __init__(self, problem: Problem) -> None:
        sites, rows = problem.spec.sites, problem.rows
        self._computed = np.array([rows * site.flops + site.once_flops for site in sites], np.int64)
        self._fixed = np.array([rows * site.kept_flops[0] for site in sites], np.int64)
        self._each = np.array([rows * site.kept_flops[1] for site in sites], np.int64)
        self._elements = np.array([rows * site.elements for site in sites], np.int64)

    def flops(self, schedule: Schedule) -> int:
        """FLOPs of the whole run, one sample."""
        work = schedule.work
        renewed = np.where(work > 0, self._fixed + self._each * work, 0)
        forecast = np.where((work < 0) & (work >= -MAX_ORDER), (1 - 2 * work) * self._elements, 0)
        return int(np.where(work == COMPUTE, self._computed, renewed + forecast).sum())
