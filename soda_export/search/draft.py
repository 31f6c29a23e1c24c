"""A schedule as the search moves it: anchors, the way of each interval, and steps that are computed in part.

What a draft spends is exactly what the budget has: after anchors and ways are paid, the rest goes to leaf sites of the
`partial` steps, shared out by plan/allocate.py on the map's errors. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..models.decisions import COMPUTE
from ..models.flops import full_step_flops, site_flops, step_flops
from ..models.spec import ModelSpec
from ..plan.allocate import allocate
from ..plan.planners.orders import limit_orders
from ..plan.schedule import Schedule, cached_work, skipped_work
from ..plan.sensitivity import MAX_INTERVAL, SensitivityMap
from .closed_loop import WAYS, Way


@dataclass(frozen=True)
class Draft:
    """anchors: from step 0 on. ways: of the steps after each anchor. partial: steps that get what the budget leaves, in
    order of preference."""

    anchors: tuple[int, ...]
    ways: tuple[Way, ...]
    partial: tuple[int, ...] = ()

    def moved(self, **changes: object) -> Draft:
        """A copy with other anchors, ways or partial steps."""
        return replace(self, **changes)  # type: ignore[arg-type]


class Realizer:
    """Turns drafts into schedules within a FLOPs budget for one sample. anchors: how many steps of each schedule
    compute everything, exactly; 0 leaves that open. can_skip: whether the sampler can do without the model."""

    def __init__(
        self, spec: ModelSpec, rows: int, steps: int, budget: float, max_engines: int, sensitivity: SensitivityMap,
        anchors: int = 0, can_skip: bool = False,
    ) -> None:  # fmt: skip
        self.spec, self.rows, self.steps, self.budget, self.max_engines = spec, rows, steps, budget, max_engines
        self.full, self.anchors = full_step_flops(spec, rows), anchors
        self.ways = tuple(
            way for way in WAYS if (spec.stack is not None or not way.stack) and (can_skip or not way.skip)
        )
        self._cached = {
            way: skipped_work(spec) if way.skip else cached_work(spec, way.order, way.stack) for way in self.ways
        }
        self._leaves = np.array(spec.leaves)
        self._error = np.nan_to_num(sensitivity.reuse_error[:, self._leaves].astype(np.float64))  # [S, P, I]
        sites = [spec.sites[k] for k in spec.leaves]
        self._cost = np.array([rows * site_flops(site, COMPUTE) + site.once_flops for site in sites], np.float64)

    def way_flops(self, way: Way) -> int:
        """FLOPs of a step that is no anchor."""
        return self._flops(self._cached[way])

    def realize(self, draft: Draft) -> Schedule | None:
        """The draft's schedule, or None where it is beyond the budget, needs too many engines, or has another number of
        anchors than is asked for."""
        if self.anchors and len(draft.anchors) != self.anchors:
            return None
        schedule = self._base(draft)
        left = self.budget - schedule.flops(self.spec, self.rows)
        if left < 0:
            return None
        for step in dict.fromkeys(draft.partial):
            if step not in draft.anchors and 0 < step < self.steps:
                left -= self._fill(schedule.work[step], step, draft, left)
        schedule = limit_orders(schedule)
        if schedule.num_kinds > self.max_engines or schedule.flops(self.spec, self.rows) > self.budget:
            return None
        return schedule

    def _base(self, draft: Draft) -> Schedule:
        schedule = Schedule.full(self.spec, self.steps)
        for first, way, end in zip(draft.anchors, draft.ways, (*draft.anchors[1:], self.steps), strict=True):
            schedule.work[first + 1 : end] = self._cached[way]
        return limit_orders(schedule)

    def _fill(self, work: NDArray[np.int64], step: int, draft: Draft, left: float) -> float:
        """Compute leaf sites of one step, [K], with at most `left` FLOPs; returns what was spent.

        Where the number of anchors is fixed, the site that matters least stays as it is.
        """
        before, anchor = self._flops(work), max(a for a in draft.anchors if a < step)
        filled = work.copy()
        way = draft.ways[draft.anchors.index(anchor)]
        if way.stack or way.skip:
            filled[:] = self._cached[Way(0, False)]
        error = self._error[step, :, min(step - anchor, MAX_INTERVAL) - 1]  # [P]
        fixed, nothing = self._flops(filled) - before, np.zeros(len(error))
        if fixed > left:
            return 0.0
        chosen = allocate(
            np.stack([error, nothing], axis=1), np.stack([nothing, self._cost], axis=1), left - fixed
        ).choice.astype(bool)
        if self.anchors and chosen.all():
            chosen[error.argmin()] = False
        if not chosen.any():
            return 0.0
        filled[self._leaves[chosen]] = COMPUTE
        work[:] = filled
        return float(self._flops(work) - before)

    def _flops(self, work: NDArray[np.int64]) -> int:
        return step_flops(self.spec, self.rows, work.tolist())
