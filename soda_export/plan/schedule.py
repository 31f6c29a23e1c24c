"""What every step does with every module, in numbers: what planners make and a Plan carries. No torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..models.flops import full_step_flops, step_flops
from ..models.spec import DenoiserSpec

BLOCKS_RUN = -1
MAX_ORDER = 2
"""Highest order of a forecast: it needs order + 1 computed outputs."""
_NEW_SHARE = 0.15  # of a full step's FLOPs


@dataclass(frozen=True, eq=False)
class Schedule:
    """kept: int64 [S, L, M], what each module does: num_tokens = compute all tokens; in between = prune: compute that
    many and scatter them into the latest output; 0 = reuse the latest output; -1, -2 = forecast it from the last
    computed ones by a Taylor expansion of that order (plan/forecast.py).

    stack: int64 [S]. BLOCKS_RUN = the blocks run as `kept` says; 0, 1, 2 = all of them are skipped, and the last
    block's output is reused or forecast at that order; `kept` is 0 then.
    """

    kept: NDArray[np.int64]
    stack: NDArray[np.int64]

    @classmethod
    def of(cls, kept: NDArray[np.int64]) -> Schedule:
        """A schedule whose blocks always run."""
        return cls(kept, np.full(len(kept), BLOCKS_RUN, np.int64))

    @classmethod
    def at_anchors(cls, spec: DenoiserSpec, steps: int, anchors: tuple[int, ...], order: int = 0) -> Schedule:
        """Everything at the anchors; every module reused in between, forecast as far as its history allows."""
        kept = np.full((steps, spec.num_layers, len(spec.modules)), spec.num_tokens, np.int64)
        past = 0
        for t in range(steps):
            if t in anchors:
                past += 1
            else:
                kept[t] = -min(order, past - 1)
        return cls.of(kept)

    @property
    def steps(self) -> int:
        """Number of steps S."""
        return len(self.kept)

    def anchors(self, num_tokens: int) -> tuple[int, ...]:
        """Execution indices of the steps that compute everything."""
        full = (self.kept == num_tokens).all(axis=(1, 2)) & (self.stack == BLOCKS_RUN)
        return tuple(int(t) for t in np.flatnonzero(full))

    @property
    def num_kinds(self) -> int:
        """Number of different steps, each of which needs an engine."""
        return len({kept.tobytes() + stack.tobytes() for kept, stack in zip(self.kept, self.stack, strict=True)})

    def renews(self, spec: DenoiserSpec, rows: int) -> list[bool]:
        """Whether each step computes enough for its prediction to be a new one."""
        least = _NEW_SHARE * full_step_flops(spec, rows)
        return [cost > least for cost in self._step_flops(spec, rows)]

    def flops(self, spec: DenoiserSpec, rows: int) -> int:
        """FLOPs of the whole run for one sample of `rows` rows."""
        return sum(self._step_flops(spec, rows))

    def _step_flops(self, spec: DenoiserSpec, rows: int) -> list[int]:
        """FLOPs of each step for one sample of `rows` rows; equal steps are counted once."""
        cost: dict[bytes, int] = {}
        of_step = []
        for kept, stack in zip(self.kept, self.stack, strict=True):
            key = kept.tobytes() + stack.tobytes()
            if key not in cost:
                cost[key] = step_flops(spec, rows, kept, int(stack))
            of_step.append(cost[key])
        return of_step

    def flops_ratio(self, spec: DenoiserSpec, rows: int) -> float:
        """FLOPs of computing everything at every step / FLOPs of this schedule."""
        return self.steps * full_step_flops(spec, rows) / self.flops(spec, rows)
