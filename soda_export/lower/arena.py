"""Place all cached values in one buffer, sharing space between values that are never alive together."""

from __future__ import annotations

from collections.abc import Sequence

from .program import ArenaLayout, CachedValue

ALIGNMENT_BYTES = 256  # what GPU libraries want of a tensor's address


def layout_arena(values: Sequence[CachedValue], value_bytes: int, num_slots: int) -> ArenaLayout:
    """Lay out values of equal size, given in order of `first`; each takes the lowest place free for its live range.

    Live ranges are inclusive: a value last read at step t and one first written at step t never share bytes. With
    equal sizes, taking values in the order in which they begin reaches the lower bound: it is greedy colouring of an
    interval graph. num_slots: places that the naive layout (one for every slot and age, for the whole run) would need.
    """
    slot_bytes = -(-value_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    free_from: list[int] = []  # per place, the first step at which it is free
    offsets = []
    for value in values:
        place = next((i for i, step in enumerate(free_from) if step <= value.first), len(free_from))
        if place == len(free_from):
            free_from.append(0)
        free_from[place] = value.last + 1
        offsets.append(place * slot_bytes)
    return ArenaLayout(
        slot_bytes, tuple(offsets), len(free_from) * slot_bytes, peak_live(values) * slot_bytes, num_slots * slot_bytes
    )


def peak_live(values: Sequence[CachedValue]) -> int:
    """The most values alive at one step."""
    changes: dict[int, int] = {}
    for value in values:
        changes[value.first] = changes.get(value.first, 0) + 1
        changes[value.last + 1] = changes.get(value.last + 1, 0) - 1
    alive = peak = 0
    for step in sorted(changes):
        alive += changes[step]
        peak = max(peak, alive)
    return peak
