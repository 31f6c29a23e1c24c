"""A schedule as the search moves it: anchors, the way of each interval, and steps that are computed in part.

What a draft spends is exactly what the budget has: after anchors and ways are paid, the rest goes to modules of the
`partial` steps, shared out by plan/allocate.py on the map's errors. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..models.flops import full_step_flops, module_flops, step_flops
from ..models.spec import DenoiserSpec
from ..plan.allocate import allocate
from ..plan.planners.orders import limit_orders
from ..plan.schedule import BLOCKS_RUN, Schedule
from ..plan.sensitivity import MAX_INTERVAL, SensitivityMap
from .closed_loop import Way


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
    """Turns drafts into schedules within a FLOPs budget for one sample."""

    def __init__(
        self, spec: DenoiserSpec, rows: int, steps: int, budget: float, max_engines: int, sensitivity: SensitivityMap
    ) -> None:
        self.spec, self.rows, self.steps, self.budget, self.max_engines = spec, rows, steps, budget, max_engines
        self.full = full_step_flops(spec, rows)
        self._error = np.nan_to_num(sensitivity.reuse_error.astype(np.float64))  # [S, L, M, I]
        self._module_cost = np.array([rows * module_flops(spec, m, spec.num_tokens) for m in spec.modules], np.float64)

    def way_flops(self, way: Way) -> int:
        """FLOPs of a step that is no anchor."""
        kept = np.full((self.spec.num_layers, len(self.spec.modules)), -way.order)
        return step_flops(self.spec, self.rows, kept, way.order if way.stack else BLOCKS_RUN)

    def realize(self, draft: Draft) -> Schedule | None:
        """The draft's schedule, or None where it is beyond the budget or needs too many engines."""
        schedule = self._base(draft)
        left = self.budget - schedule.flops(self.spec, self.rows)
        if left < 0:
            return None
        for step in draft.partial:
            if step in draft.anchors or not 0 < step < self.steps:
                continue
            left -= self._fill(schedule, step, draft, left)
        schedule = limit_orders(schedule, self.spec.num_tokens)
        if schedule.num_kinds > self.max_engines or schedule.flops(self.spec, self.rows) > self.budget:
            return None
        return schedule

    def _base(self, draft: Draft) -> Schedule:
        schedule = Schedule.at_anchors(self.spec, self.steps, draft.anchors)
        for first, way, end in zip(draft.anchors, draft.ways, (*draft.anchors[1:], self.steps), strict=True):
            schedule.kept[first + 1 : end] = 0 if way.stack else -way.order
            schedule.stack[first + 1 : end] = way.order if way.stack else BLOCKS_RUN
        return limit_orders(schedule, self.spec.num_tokens)

    def _fill(self, schedule: Schedule, step: int, draft: Draft, left: float) -> float:
        """Compute modules of one step with at most `left` FLOPs; returns what was spent."""
        kept = schedule.kept
        before = schedule.flops(self.spec, self.rows)
        was_stack = schedule.stack[step] != BLOCKS_RUN
        if was_stack:
            schedule.stack[step], kept[step] = BLOCKS_RUN, 0
        anchor = max(a for a in draft.anchors if a < step)
        distance = min(step - anchor, MAX_INTERVAL)
        error = self._error[step, :, :, distance - 1]  # [L, M]
        fixed = schedule.flops(self.spec, self.rows) - before
        cost = np.broadcast_to(self._module_cost, error.shape)
        chosen = allocate(
            np.stack([error.ravel(), np.zeros(error.size)], axis=1),
            np.stack([np.zeros(error.size), cost.ravel()], axis=1), max(0.0, left - fixed),
        ).choice.reshape(error.shape)  # fmt: skip
        if fixed > left or not chosen.any():
            if was_stack:
                schedule.stack[step], kept[step] = int(draft.ways[draft.anchors.index(anchor)].order), 0
            return 0.0
        kept[step][chosen == 1] = self.spec.num_tokens
        return float(schedule.flops(self.spec, self.rows) - before)
