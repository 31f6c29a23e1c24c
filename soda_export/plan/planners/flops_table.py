"""FLOPs of many schedules of one problem, fast: a table of what each module costs by what it does."""

from __future__ import annotations

import numpy as np

from ...models.flops import fixed_flops, forecast_flops, module_flops
from ..problem import Problem
from ..schedule import BLOCKS_RUN, MAX_ORDER, Schedule


class FlopsTable:
    """The same numbers as Schedule.flops, by one look-up a module."""

    def __init__(self, problem: Problem) -> None:
        spec, rows = problem.spec, problem.rows
        kept = range(-MAX_ORDER, spec.num_tokens + 1)
        self._by_kept = np.array([[rows * module_flops(spec, m, k) for k in kept] for m in spec.modules], np.int64)
        self._by_stack = np.array([rows * forecast_flops(spec, order) for order in range(MAX_ORDER + 1)], np.int64)
        self._fixed = fixed_flops(spec, rows)

    def flops(self, schedule: Schedule) -> int:
        """FLOPs of the whole run, one sample."""
        runs = schedule.stack == BLOCKS_RUN
        modules = np.arange(schedule.kept.shape[2])
        computed = self._by_kept[modules, schedule.kept[runs] + MAX_ORDER].sum()
        return int(computed + runs.sum() * self._fixed + self._by_stack[schedule.stack[~runs]].sum())
