"""Turn per-step reads and writes into cached values with live ranges."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import InternalError
from .program import CachedValue, Slot, StepProgram


def live_values(steps: Sequence[StepProgram]) -> tuple[CachedValue, ...]:
    """Every cached value of a run, in order of its first step.

    A slot in a step's reads and writes is updated in place and stays the same value. A write that nobody reads before
    the next one still needs a place for that one step.
    """
    done: list[CachedValue] = []
    alive: dict[Slot, CachedValue] = {}
    for t, program in enumerate(steps):
        for slot in program.reads:
            if slot not in alive:
                raise InternalError(f"step {t} reads {slot}, which no earlier step writes")
            alive[slot] = CachedValue(slot, alive[slot].first, t)
        for slot in program.writes:
            if slot in program.reads:
                continue
            if slot in alive:
                done.append(alive[slot])
            alive[slot] = CachedValue(slot, t, t)
    done.extend(alive.values())
    return tuple(sorted(done, key=lambda value: (value.first, value.slot)))
