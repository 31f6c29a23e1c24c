"""Prove a program table by playing it on bytes: it shares no code with liveness or layout.

Every write paints the bytes of its slot with (slot, step); every read demands that all of them still carry the paint
of that slot's latest write, or of the one before it, or of the one before that.
"""

from __future__ import annotations

from ..errors import InternalError
from .program import ProgramTable, Slot

_Paint = tuple[Slot, int]


def verify_table(table: ProgramTable) -> None:
    """Raise InternalError if any step would read anything but what was written for it last."""
    owner: dict[int, tuple[int, _Paint]] = {}  # begin -> (end, paint)
    history: dict[tuple[int, str], list[_Paint]] = {}  # newest first
    for step, index in enumerate(table.step_programs):
        program, offsets = table.programs[index], table.offsets_at(step)
        for slot in program.reads:
            known = history.get((slot.layer, slot.module), [])
            if slot.age >= len(known):
                raise InternalError(f"step {step} reads {slot}, which was never written")
            begin = offsets[slot]
            if owner.get(begin) != (begin + table.arena.slot_bytes, known[slot.age]):
                raise InternalError(f"step {step} reads {slot} at {begin}, but those bytes hold {owner.get(begin)}")
        in_use: list[tuple[int, int, Slot]] = []
        for slot in {*program.reads, *program.writes}:
            begin = offsets[slot]
            end = begin + table.arena.slot_bytes
            if begin < 0 or end > table.arena.bytes or begin % 256:
                raise InternalError(f"step {step}: {slot} at {begin}..{end} leaves the arena or its alignment")
            for other_begin, other_end, other in in_use:
                if begin < other_end and other_begin < end:
                    raise InternalError(f"step {step}: {slot} and {other} share bytes")
            in_use.append((begin, end, slot))
        for slot in program.writes:
            begin = offsets[slot]
            end = begin + table.arena.slot_bytes
            for old_begin in [b for b, (e, _) in owner.items() if b < end and begin < e]:
                del owner[old_begin]
            known = history.setdefault((slot.layer, slot.module), [])
            if slot in program.reads:  # updated in place: still the same value
                known.pop(0)
            known.insert(0, (slot, step))
            owner[begin] = (end, known[0])
