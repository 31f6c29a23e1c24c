"""Place all cached values in one buffer, sharing space between values that are never alive together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from .program import ArenaLayout, CachedValue

ALIGNMENT_BYTES = 256  # what GPU libraries want of a tensor's address
_MANY = 4000  # values, beyond which only the orders that are best as a rule are tried one by one
_Spans = NDArray[np.int64]  # [N, 3]: first step, last step, size in units of ALIGNMENT_BYTES


def padded_bytes(size: int) -> int:
    """What a value of `size` bytes takes of the arena."""
    return -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def layout_arena(values: Sequence[CachedValue], sizes: Sequence[int], naive_bytes: int) -> ArenaLayout:
    """Lay out values, given in order of `first`; sizes: padded bytes of each.

    Live ranges are inclusive: a value last read at step t and one first written at step t never share bytes. Placing
    values of several sizes well is NP-hard (dynamic storage allocation), so a few orders are tried, each value at the
    lowest place free for its whole live range or in the tightest such gap, until one reaches the lower bound. With
    equal sizes the order in which values begin does: it is greedy colouring of an interval graph.

    naive_bytes: what one place for every slot and age takes for the whole run; the layout never takes more.
    """
    if not values:
        return ArenaLayout((), 0, 0, naive_bytes)
    spans = np.array(
        [(v.first, v.last, size // ALIGNMENT_BYTES) for v, size in zip(values, sizes, strict=True)], np.int64
    )
    bound = _peak(spans)
    best: NDArray[np.int64] | None = None
    least = 0
    for offsets in _layouts(values, spans):
        taken = int((offsets + spans[:, 2]).max())
        if best is None or taken < least:
            best, least = offsets, taken
        if least == bound:
            break
    assert best is not None
    return ArenaLayout(
        tuple((best * ALIGNMENT_BYTES).tolist()), least * ALIGNMENT_BYTES, bound * ALIGNMENT_BYTES, naive_bytes
    )


def _peak(spans: _Spans) -> int:
    """The most that is alive at one step."""
    changes = np.zeros(int(spans[:, 1].max()) + 2, np.int64)
    np.add.at(changes, spans[:, 0], spans[:, 2])
    np.add.at(changes, spans[:, 1] + 1, -spans[:, 2])
    return int(np.cumsum(changes).max())


def _layouts(values: Sequence[CachedValue], spans: _Spans) -> Iterator[NDArray[np.int64]]:
    """Offsets by one heuristic after the other, [N] each. What lives and dies together is first placed as one block."""
    blocks, block_of, within = _blocks(spans)
    for order in _orders(blocks):
        for tight in (False, True):
            yield _place(blocks, order, tight)[block_of] + within
    orders = list(_orders(spans))
    for order in orders if len(spans) <= _MANY else orders[:2]:
        for tight in (False, True) if len(spans) <= _MANY else (False,):
            yield _place(spans, order, tight)
    yield _slot_by_slot(values, spans)


def _orders(spans: _Spans) -> list[NDArray[np.int64]]:
    """By begin, then the longest and largest; by size; by length; by size times length."""
    first, length, size = spans[:, 0], spans[:, 1] - spans[:, 0] + 1, spans[:, 2]
    keys = [(-size, -length, first), (first, -length, -size), (first, -size, -length), (-length, -size, first)]
    keys.append((-size * length, first, -size))
    return [np.lexsort(key[::-1]) for key in keys]


def _blocks(spans: _Spans) -> tuple[_Spans, NDArray[np.int64], NDArray[np.int64]]:
    """Values with the same live range as one: its span, the block of each value, and each one's offset in it."""
    ranges, block_of = np.unique(spans[:, :2], axis=0, return_inverse=True)
    block_of = block_of.reshape(-1)
    sizes, within = np.zeros(len(ranges), np.int64), np.zeros(len(spans), np.int64)
    for i, block in enumerate(block_of):
        within[i] = sizes[block]
        sizes[block] += spans[i, 2]
    return np.column_stack([ranges, sizes]), block_of, within


def _place(spans: _Spans, order: NDArray[np.int64], tight: bool) -> NDArray[np.int64]:
    """Values one after the other, each in a gap between those placed that live at some step of its range."""
    begin, end = np.zeros(len(spans), np.int64), np.zeros(len(spans), np.int64)
    firsts, lasts = spans[order, 0], spans[order, 1]
    for count, i in enumerate(order):
        first, last, size = spans[i]
        beside = np.flatnonzero((firsts[:count] <= last) & (lasts[:count] >= first))
        beside = beside[np.argsort(begin[beside], kind="stable")]
        starts = np.concatenate([[0], np.maximum.accumulate(end[beside])])
        room = begin[beside] - starts[:-1]
        fits = np.flatnonzero(room >= size)
        gap = len(room) if not fits.size else int(fits[room[fits].argmin()] if tight else fits[0])
        begin[count], end[count] = starts[gap], starts[gap] + size
    offsets = np.empty(len(spans), np.int64)
    offsets[order] = begin
    return offsets


def _slot_by_slot(values: Sequence[CachedValue], spans: _Spans) -> NDArray[np.int64]:
    """A region for each slot, as many places in it as it has values at a time: at worst the naive layout."""
    places: dict[object, list[tuple[int, int]]] = {}  # slot -> (offset, first step at which it is free)
    offsets, taken = np.zeros(len(values), np.int64), 0
    for i, value in enumerate(values):
        known = places.setdefault(value.slot, [])
        place = next((j for j, (_, free) in enumerate(known) if free <= value.first), len(known))
        if place == len(known):
            known.append((taken, 0))
            taken += int(spans[i, 2])
        offsets[i] = known[place][0]
        known[place] = (known[place][0], value.last + 1)
    return offsets
