"""cache-dit's named step masks: slow, medium, fast and ultra, for any number of steps that cache-dit has them for.

Runs of computed and of cached steps by turns, for 28 steps; for more they are stretched, for fewer cut. The numbers are
those of `steps_mask` in cache-dit (github.com/vipshop/cache-dit, src/cache_dit/caching/cache_interface.py, f86744af).
"""

from __future__ import annotations

from itertools import zip_longest

from ...errors import PlanError

Runs = tuple[tuple[int, ...], tuple[int, ...]]
"""Lengths of runs: computed, cached."""

_LENGTH = 28  # steps of the masks that others are stretched from or cut to
_MASKS: dict[str, Runs] = {
    "slow": ((8, 3, 3, 2, 1, 1), (1, 2, 2, 2, 3)),
    "medium": ((6, 2, 2, 2, 2, 1), (1, 3, 3, 3, 3)),
    "fast": ((6, 1, 1, 1, 1, 1), (1, 3, 4, 5, 4)),
    "ultra": ((4, 1, 1, 1, 1), (2, 5, 6, 7)),
}
_FEW: dict[int, dict[str, Runs]] = {  # most steps that a row is for -> masks
    4: dict.fromkeys(_MASKS, ((2, 1), (1,))),
    6: dict.fromkeys(_MASKS, ((3, 1), (2,))),
    8: {"slow": ((5, 1, 1), (1,)), "medium": ((4, 1, 1), (1, 1)), "fast": ((3, 1, 1), (1, 2)),
        "ultra": ((2, 1, 1), (2, 2))},
    9: {"slow": ((5, 2, 1), (1,)), "medium": ((5, 1, 1), (1, 1)), "fast": ((4, 1, 1), (1, 2)),
        "ultra": ((3, 1, 1), (2, 2))},
    15: {"slow": ((4, 2, 2, 2, 1), (1, 1, 1, 1)), "medium": ((4, 2, 1, 1, 1), (1, 1, 2, 2)),
         "fast": ((3, 1, 1, 1, 1), (1, 2, 2, 3)), "ultra": ((2, 1, 1, 1, 1), (1, 2, 3, 3))},
}  # fmt: skip


def named_mask(name: str, steps: int) -> list[int]:
    """1 for each step that computes, [steps]; the last one always does. Raises PlanError."""
    if name not in _MASKS:
        raise PlanError(f"{name!r:.40}: no mask of cache-dit's; there are {', '.join(_MASKS)}, or a list of 0 and 1")
    if steps in (5, 7) or steps < min(_FEW):
        raise PlanError(f"{name!r}: cache-dit has no mask of that name for {steps} steps; give a list of 0 and 1")
    most = next((most for most in _FEW if steps <= most), None)
    computed, cached = (list(runs) for runs in (_MASKS if most is None else _FEW[most])[name])
    if steps > _LENGTH:
        _stretch(computed, cached, steps)
    _cut(computed, cached, steps)
    mask = [
        one
        for long, short in zip_longest(computed, cached, fillvalue=0)
        for one in (1,) * long + (0,) * short
    ]  # fmt: skip
    return [*mask[: steps - 1], 1]


def _stretch(computed: list[int], cached: list[int], steps: int) -> None:
    """Lengthen runs in turn, each by half of what its share of the steps would be, until there are enough steps."""
    shares = [
        (runs, i, max(int(runs[i] * (steps / _LENGTH * 0.5)), 1))
        for i in range(min(len(computed), len(cached)))
        for runs in (computed, cached)
    ]
    while True:
        for runs, i, more in (*shares, (computed, -1, 1)):
            if sum(computed) + sum(cached) >= steps:
                return
            runs[i] += more


def _cut(computed: list[int], cached: list[int], steps: int) -> None:
    """Take steps from the last run of each kind by turns, cached first, until none is too many."""
    turn = (cached, computed)
    while sum(computed) + sum(cached) > steps:
        for runs in turn:
            if runs and sum(computed) + sum(cached) > steps:
                runs[-1] -= 1
                if not runs[-1]:
                    runs.pop()
