"""What every step does with every site, in numbers: what planners make and a Plan carries. No torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import InternalError
from ..models.decisions import COMPUTE, IDLE
from ..models.flops import full_step_flops, step_flops
from ..models.spec import ModelSpec

_NEW_SHARE = 0.15  # of a full step's FLOPs


def skipped_work(spec: ModelSpec) -> NDArray[np.int64]:
    """[K], what a step does that does not call the model."""
    return np.full(len(spec.sites), IDLE, np.int64)


def cached_work(spec: ModelSpec, order: int = 0, stack: bool = False) -> NDArray[np.int64]:
    """[K], what a step does that computes none of the leaf sites, or not even the stack: all reused, or forecast."""
    work = np.full((1, len(spec.sites)), COMPUTE, np.int64)
    if not stack:
        work[0, list(spec.leaves)] = -order
    elif spec.stack is None:
        raise InternalError(f"{spec.name} has no stack")
    else:
        work[0, spec.stack] = -order
    row: NDArray[np.int64] = Schedule.of(spec, work).work[0]
    return row


def fixed_flops(spec: ModelSpec, rows: int) -> int:
    """FLOPs of a step that reuses every leaf site, for one sample: what each step pays whose stack is not reused."""
    return step_flops(spec, rows, cached_work(spec).tolist())


@dataclass(frozen=True, eq=False)
class Schedule:
    """work: int64 [S, K], what each step does with each of the spec's sites (models/decisions.py)."""

    work: NDArray[np.int64]

    @classmethod
    def of(cls, spec: ModelSpec, work: NDArray[np.int64]) -> Schedule:
        """The schedule with IDLE where a site that contains it is not computed; other IDLEs become COMPUTE, but those
        of steps that leave every site idle."""
        skipped = (work == IDLE).all(axis=1, keepdims=True)
        tidy = np.where((work == IDLE) & ~skipped, COMPUTE, work)
        given = (tidy != COMPUTE) & ~skipped
        for k, chain in enumerate(spec.containers):
            if chain:
                tidy[given[:, list(chain)].any(axis=1), k] = IDLE
        return cls(tidy)

    @classmethod
    def full(cls, spec: ModelSpec, steps: int) -> Schedule:
        """Everything computed at every step."""
        return cls(np.full((steps, len(spec.sites)), COMPUTE, np.int64))

    @classmethod
    def at_anchors(
        cls, spec: ModelSpec, steps: int, anchors: tuple[int, ...], order: int = 0, stack: bool = False,
        skip: bool = False,
    ) -> Schedule:  # fmt: skip
        """Everything at the anchors; in between every leaf site, or the stack, reused or forecast as far as its history
        allows, or with `skip` the model not called."""
        work, past = np.full((steps, len(spec.sites)), COMPUTE, np.int64), 0
        by_order = [skipped_work(spec) if skip else cached_work(spec, o, stack) for o in range(order + 1)]
        for t in range(steps):
            if t in anchors:
                past += 1
            else:
                work[t] = by_order[min(order, past - 1)]
        return cls(work)

    @property
    def steps(self) -> int:
        """Number of steps S."""
        return len(self.work)

    @property
    def anchors(self) -> tuple[int, ...]:
        """Execution indices of the steps that compute everything."""
        return tuple(int(t) for t in np.flatnonzero((self.work == COMPUTE).all(axis=1)))

    @property
    def skips(self) -> list[bool]:
        """Whether each step does not call the model."""
        found: list[bool] = (self.work == IDLE).all(axis=1).tolist()
        return found

    @property
    def num_kinds(self) -> int:
        """Number of different steps, each of which needs an engine."""
        return len(np.unique(self.work, axis=0))

    def renews(self, spec: ModelSpec, rows: int) -> list[bool]:
        """Whether each step computes enough for its prediction to be a new one."""
        least = _NEW_SHARE * full_step_flops(spec, rows)
        return [cost > least for cost in self.flops_by_step(spec, rows)]

    def flops(self, spec: ModelSpec, rows: int) -> int:
        """FLOPs of the whole run for one sample of `rows` rows."""
        return sum(self.flops_by_step(spec, rows))

    def flops_by_step(self, spec: ModelSpec, rows: int) -> list[int]:
        """FLOPs of each step for one sample of `rows` rows; equal steps are counted once."""
        cost: dict[bytes, int] = {}
        of_step = []
        for work in self.work:
            key = work.tobytes()
            if key not in cost:
                cost[key] = step_flops(spec, rows, work.tolist())
            of_step.append(cost[key])
        return of_step

    def flops_ratio(self, spec: ModelSpec, rows: int) -> float:
        """FLOPs of computing everything at every step / FLOPs of this schedule."""
        return self.steps * full_step_flops(spec, rows) / self.flops(spec, rows)
