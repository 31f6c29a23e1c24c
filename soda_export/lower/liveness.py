"""Turn per-step reads and writes into cached values with live ranges."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import InternalError
from .program import CachedValue, Slot, StepProgram


def live_values(steps: Sequence[StepProgram]) -> tuple[CachedValue, ...]:
    """Every cached value of a run, in order of its first step.

    A slot in a step's reads and writes is updated in place and stays the same value. Any other write begins a new
    value, and those before it grow one older. A write that nobody reads before the next one still needs a place for
    that one step.
    """
    ranges: list[tuple[Slot, list[int]]] = []
    history: dict[Slot, list[list[int]]] = {}  # the slot's ranges, newest first
    for t, program in enumerate(steps):
        for slot in program.reads:
            known = history.get(slot.latest, [])
            if slot.age >= len(known):
                raise InternalError(f"step {t} reads {slot}, which no earlier step writes")
            known[slot.age][1] = t
        for slot in program.writes:
            if slot in program.reads:
                continue
            ranges.append((slot, [t, t]))
            history.setdefault(slot, []).insert(0, ranges[-1][1])
    return tuple(sorted((CachedValue(slot, *span) for slot, span in ranges), key=lambda v: (v.first, v.slot)))
