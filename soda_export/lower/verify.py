"""Prove a program table by playing it on bytes: it shares no code with liveness or layout.

Every write paints the bytes of its slot with (slot, step); every read demands that all of them still carry the paint
of that slot's latest write, or of the one before it, or of the one before that.
"""

from __future__ import annotations

import math
from bisect import bisect_left

from ..errors import InternalError
from .program import ProgramTable, Slot

_Paint = tuple[Slot, int]


def verify_table(table: ProgramTable) -> None:
    """Raise InternalError if any step would read anything but what was written for it last."""
    sizes = {name: _size(table, name) for name in table.slots}
    paint = _Bytes()
    history: dict[Slot, list[_Paint]] = {}  # newest first
    for step, (index, offsets) in enumerate(zip(table.step_programs, table.offsets_by_step, strict=True)):
        program = table.programs[index]
        places = {slot: (begin, begin + sizes[str(slot.latest)]) for slot, begin in offsets.items()}
        for slot in program.reads:
            known = history.get(slot.latest, [])
            if slot.age >= len(known):
                raise InternalError(f"step {step} reads {slot}, which was never written")
            found = paint.at(*places[slot])
            if found != known[slot.age]:
                raise InternalError(f"step {step} reads {slot} at {places[slot][0]}, but those bytes hold {found}")
        before: tuple[int, Slot | None] = (0, None)
        for slot in sorted({*program.reads, *program.writes}, key=lambda slot: places[slot]):
            begin, end = places[slot]
            if begin < 0 or end > table.arena.bytes or begin % 256:
                raise InternalError(f"step {step}: {slot} at {begin}..{end} leaves the arena or its alignment")
            if begin < before[0]:
                raise InternalError(f"step {step}: {slot} and {before[1]} share bytes")
            before = (end, slot)
        for slot in program.writes:
            known = history.setdefault(slot.latest, [])
            if slot in program.reads:  # updated in place: still the same value
                known.pop(0)
            known.insert(0, (slot, step))
            paint.put(*places[slot], known[0])


def _size(table: ProgramTable, name: str) -> int:
    """Bytes of a slot, which must hold its values."""
    slot = table.slots[name]
    needed = table.rows * math.prod(slot.shape) * slot.item_bytes
    if not needed <= slot.bytes < needed + 256 or slot.bytes % 256:
        raise InternalError(f"slot {name}: {slot.bytes} bytes for {needed}, aligned to 256")
    return slot.bytes


class _Bytes:
    """Which paint the bytes carry: intervals that do not overlap, sorted."""

    def __init__(self) -> None:
        self._begins: list[int] = []
        self._held: list[tuple[int, _Paint]] = []  # end, paint

    def at(self, begin: int, end: int) -> _Paint | None:
        """The paint of exactly these bytes, or None where they were not painted as one, or were painted over."""
        i = bisect_left(self._begins, begin)
        if i < len(self._begins) and self._begins[i] == begin and self._held[i][0] == end:
            return self._held[i][1]
        return None

    def put(self, begin: int, end: int, paint: _Paint) -> None:
        """Paint these bytes; whatever they share a byte with is spoilt as a whole."""
        low = bisect_left(self._begins, begin)
        if low and self._held[low - 1][0] > begin:
            low -= 1
        high = bisect_left(self._begins, end)
        self._begins[low:high] = [begin]
        self._held[low:high] = [(end, paint)]
