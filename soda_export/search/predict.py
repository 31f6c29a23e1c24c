"""What a schedule's error might be, from the closed-loop costs of its intervals: which neighbour to measure first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..models.decisions import COMPUTE, MAX_ORDER, is_skip
from ..models.flops import full_step_flops, step_flops
from ..models.spec import ModelSpec
from ..plan.schedule import Schedule, fixed_flops
from .closed_loop import MEASURED_WAYS, IntervalCosts

_STACK = next(w for w, way in enumerate(MEASURED_WAYS) if way.stack)
_SKIP = next(w for w, way in enumerate(MEASURED_WAYS) if way.skip)
_LEAVES = {way.order: w for w, way in enumerate(MEASURED_WAYS) if not way.stack and not way.skip}


class Predictor:
    """Each step between anchors adds what its interval's cost rises by, less the share of it that is computed.

    A guess that orders candidates; measuring decides. Refreshing some sites is not credited to the steps after it.
    """

    def __init__(self, costs: IntervalCosts, spec: ModelSpec, rows: int) -> None:
        self._spec, self._rows = spec, rows
        self._full, self._least = full_step_flops(spec, rows), fixed_flops(spec, rows)
        self._rises = np.maximum(0.0, np.diff(_to_the_end(costs.squares), axis=1))  # [S, G, W]: of gap 2, 3, ...
        self._known: dict[bytes, tuple[int, float]] = {}

    def __call__(self, schedule: Schedule) -> float:
        """Predicted mean squared error of the final sample; to be compared with others' alone."""
        total, anchors = 0.0, schedule.anchors
        most = self._rises.shape[1]
        for first, end in zip(anchors, (*anchors[1:], schedule.steps), strict=True):
            for step in range(first + 1, end):
                way, share = self._way_and_share(schedule.work[step])
                total += float(self._rises[first, min(step - first, most) - 1, way]) * (1.0 - share)
        return total

    def _way_and_share(self, work: NDArray[np.int64]) -> tuple[int, float]:
        key = work.tobytes()
        if key not in self._known:
            self._known[key] = self._way(work), self._share(work)
        return self._known[key]

    def _way(self, work: NDArray[np.int64]) -> int:
        """Which of the measured ways a step is most like."""
        if is_skip(work.tolist()):
            return _SKIP
        if self._spec.stack is not None and work[self._spec.stack] != COMPUTE:
            return _STACK
        return _LEAVES[int(-work[(work < 0) & (work >= -MAX_ORDER)].min(initial=0))]

    def _share(self, work: NDArray[np.int64]) -> float:
        """How much of its leaf sites a step computes, by FLOPs."""
        spent = step_flops(self._spec, self._rows, work.tolist()) - self._least  # below 0 where skipped
        return max(0.0, spent / (self._full - self._least))


def _to_the_end(squares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intervals that leave the run cost what the last one of their gap does that stays in it, and no less than the next
    shorter one from the same anchor."""
    filled = squares.copy()
    for gap in range(1, filled.shape[1]):
        column = filled[:, gap]
        inside = np.isfinite(column).all(axis=1)
        last = np.flatnonzero(inside)
        column[~inside] = column[last[-1]] if len(last) else filled[~inside, gap - 1]
    result: NDArray[np.float64] = np.maximum.accumulate(filled[:, 1:], axis=1)
    return result
