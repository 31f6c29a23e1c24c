"""Which calibration samples a search may look at, and which judge what it found: every fourth prompt is kept from it.

Schedules and coefficients that are chosen on few prompts do better there than anywhere else. So finalists are compared
on prompts, or where there are too few of them on noise for each, that played no part in finding them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice

_EVERY = 4
_FEWEST_PROMPTS = 2 * _EVERY


def seen_numbers(how_many: int, prompts: int, first: int = 0) -> tuple[int, ...]:
    """Numbers of samples to search and to fit on, `how_many` from the `first` of them on. prompts: how many different
    ones the samples take in turn."""
    return tuple(islice(_numbers(prompts, False), first, first + how_many))


def unseen_numbers(how_many: int, prompts: int) -> tuple[int, ...]:
    """Numbers of samples to judge by."""
    return tuple(islice(_numbers(prompts, True), how_many))


def _numbers(prompts: int, held_out: bool) -> Iterator[int]:
    for i in count():
        place = i // prompts if 0 < prompts < _FEWEST_PROMPTS else i % prompts if prompts else i
        if (place % _EVERY == _EVERY - 1) == held_out:
            yield i
