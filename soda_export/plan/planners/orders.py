"""Keep every forecast within its history: a Taylor expansion of order o needs o + 1 computed outputs."""

from __future__ import annotations

import numpy as np

from ...models.decisions import COMPUTE, MAX_ORDER
from ..schedule import Schedule


def limit_orders(schedule: Schedule) -> Schedule:
    """Lower the order of each forecast to what its own site allows: (outputs computed before the step) - 1.

    Only outputs that were computed whole count.
    """
    work, computed = schedule.work, schedule.work == COMPUTE
    before = np.cumsum(computed, axis=0) - computed
    forecast = (work < 0) & (work >= -MAX_ORDER)
    return Schedule(np.where(forecast, np.maximum(work, np.minimum(1 - before, 0)), work))
