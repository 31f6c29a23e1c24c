"""Places of slots of unequal sizes: what is alive where is what a map of every byte says."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from soda_runtime.dispatch import _Places
from soda_runtime.manifest import Slot
from soda_runtime.signature import slot_bytes

SIZES = {"a": 256, "b": 512, "c": 1280}
WRITES = st.lists(st.tuples(st.sampled_from(sorted(SIZES)), st.integers(0, 9), st.booleans()), max_size=12)


@given(WRITES)
def test_a_value_is_held_until_a_byte_of_it_is_overwritten(writes: list[tuple[str, int, bool]]) -> None:
    places, owner, count = _Places(SIZES), {}, dict.fromkeys(SIZES, 0)
    for slot, place, wants_update in writes:
        begin = 256 * place
        update = wants_update and places.holds(slot, 0, begin)
        places.write(slot, begin, update)
        count[slot] += not update
        owner |= dict.fromkeys(range(place, place + SIZES[slot] // 256), (slot, count[slot], begin))
        for name, size in SIZES.items():
            for first in range(12):
                for age in range(3):
                    value = (name, count[name] - age, 256 * first)
                    blocks = [owner.get(block) for block in range(first, first + size // 256)]
                    is_there = count[name] > age and all(block == value for block in blocks)
                    assert places.holds(name, age, 256 * first) == is_there


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.sampled_from(["float32", "float16"]), st.integers(1, 2))
def test_a_slots_place_is_the_least_multiple_of_256_that_holds_its_rows(
    shape: list[int], dtype: str, rows: int
) -> None:
    size = slot_bytes(Slot("x", tuple(shape), dtype), rows)  # type: ignore[arg-type]
    needed = rows * {"float32": 4, "float16": 2}[dtype]
    for side in shape:
        needed *= side
    assert size % 256 == 0
    assert 0 <= size - needed < 256
