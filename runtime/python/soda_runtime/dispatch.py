"""Hold a manifest's order of play against itself: what each step reads is where an earlier one put it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import pairwise

from .manifest import Manifest, Program, TokenIdsPort
from .signature import SLOT_ALIGNMENT_BYTES, slot_bytes, slot_of


def dispatch_problem(manifest: Manifest) -> str | None:
    """The first inconsistency of step programs and steps in words, or None. Sizes of slots have been judged."""
    sizes = {slot.name: slot_bytes(slot, manifest.rows_per_sample) for slot in manifest.slots}
    return _program_problem(manifest, sizes) or _steps_problem(manifest, sizes)


def _program_problem(manifest: Manifest, sizes: dict[str, int]) -> str | None:
    if not 0 <= manifest.baseline_program < len(manifest.programs):
        return f"baseline_program={manifest.baseline_program!r:.40} is not one of {len(manifest.programs)} programs"
    baseline = manifest.programs[manifest.baseline_program]
    if baseline.reads or baseline.writes:
        return "the baseline program touches the cache"
    given = {port.name for port in manifest.ports if not isinstance(port, TokenIdsPort)}
    given.update(tensor.name for tensor in manifest.tensors)
    readable = {name + age for name in sizes for age in ("", "@1", "@2")}
    for index, program in enumerate(manifest.programs):
        for verb, names, slots in (("reads", program.reads, readable), ("writes", program.writes, sizes.keys())):
            odd = [name for name in names if name not in slots]
            if odd:
                return f"programs[{index}] {verb} {odd[0]!r:.120}, which is no slot"
        if len(set(program.reads)) != len(program.reads) or len(set(program.writes)) != len(program.writes):
            return f"programs[{index}] names a cache slot twice"
        if len(set(program.inputs)) != len(program.inputs) or not given.issuperset(program.inputs):
            return f"programs[{index}] takes an input twice, or one that is not there"
    return None


def _steps_problem(manifest: Manifest, sizes: dict[str, int]) -> str | None:
    places = _Places(sizes)
    for index, step in enumerate(manifest.steps):
        if not 0 <= step.program < len(manifest.programs):
            return f"steps[{index}].program={step.program!r:.40} does not exist"
        problem = _step_problem(manifest, index, manifest.programs[step.program], places)
        if problem:
            return problem
    return None


class _Places:
    """Which value of which slot lies where in the arena, and how many newer ones each slot has."""

    def __init__(self, sizes: dict[str, int]) -> None:
        self.sizes = sizes
        self._begins: list[int] = []  # sorted; places do not overlap, so their ends are too
        self._ends: list[int] = []
        self._value_at: dict[int, tuple[str, int]] = {}  # begin -> slot and number of the value
        self._count: dict[str, int] = {}  # values that a slot has had

    def holds(self, slot: str, age: int, begin: int) -> bool:
        return self._value_at.get(begin) == (slot, self._count.get(slot, 0) - age)

    def write(self, slot: str, begin: int, update: bool) -> None:
        """Whatever overlaps is gone. update: it is still the same value."""
        end = begin + self.sizes[slot]
        low, high = bisect_right(self._ends, begin), bisect_left(self._begins, end)
        for old in self._begins[low:high]:
            del self._value_at[old]
        self._begins[low:high], self._ends[low:high] = [begin], [end]
        self._count[slot] = self._count.get(slot, 0) + (not update)
        self._value_at[begin] = (slot, self._count[slot])


def _step_problem(manifest: Manifest, index: int, program: Program, places: _Places) -> str | None:
    """Offsets inside the arena; reads where the last write went; an updated slot stays in place; no overlap."""
    step, room, sizes = manifest.steps[index], manifest.arena.bytes, places.sizes
    if len(step.read_offsets) != len(program.reads) or len(step.write_offsets) != len(program.writes):
        return f"steps[{index}] has another number of offsets than its program has slots"
    reads = dict(zip(program.reads, step.read_offsets, strict=True))
    writes = dict(zip(program.writes, step.write_offsets, strict=True))
    for name, offset in (*reads.items(), *writes.items()):
        if not 0 <= offset <= room - sizes[slot_of(name)[0]] or offset % SLOT_ALIGNMENT_BYTES:
            return f"steps[{index}] has an offset outside the arena of {room} bytes, or an unaligned one"
    for name, offset in reads.items():
        slot, age = slot_of(name)
        if not places.holds(slot, age, offset):
            return f"steps[{index}] reads slot {name} at {offset}, which no longer or never held it"
        if writes.get(name, offset) != offset:
            return f"steps[{index}] updates slot {name} away from its place"
    touched = sorted((offset, offset + sizes[slot_of(name)[0]]) for name, offset in {**reads, **writes}.items())
    if any(end > begin for (_, end), (begin, _) in pairwise(touched)):
        return f"steps[{index}] touches overlapping slots"
    for slot, offset in writes.items():
        places.write(slot, offset, update=slot in reads)
    return None
