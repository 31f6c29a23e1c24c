"""Which settings a model with random weights is played with: those that did best on the trained one."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from .measure import Seen
from .systems import COMPILED, OURS, REFERENCE, System

_DECIDING = (
    "diffusers FirstBlockCache", "torch.compile + diffusers FirstBlockCache", "diffusers MagCache", "cache-dit",
)  # fmt: skip
"""Caches that decide by what they measure, which random weights would make meaningless: they follow a mask instead."""


def settings_like(seen: Sequence[Seen], systems: Sequence[System]) -> tuple[list[System], dict[str, float]]:
    """The systems to play, and by key the errors that they are judged by.

    Of each peer and precision one setting: the fastest whose error is no larger than that of our worst bundle among
    `systems`, or else the one with the smallest error. Caches that decide while they play take the decisions they took
    on the trained model.
    """
    by_key = {one.system.key: one for one in seen}
    errors = {one.system.key: one.rmse for one in seen if one.rmse is not None}
    limit = max((errors[s.key] for s in systems if s.system.startswith(OURS) and s.key in errors), default=0.0)
    chosen: list[System] = []
    groups: dict[tuple[str, str], list[System]] = {}
    for system in systems:
        if system.system.startswith(OURS) or system.system in (REFERENCE, COMPILED):
            chosen.append(system)
        else:
            groups.setdefault((system.system, system.precision), []).append(system)
    for group in groups.values():
        known = [by_key[s.key] for s in group if s.key in errors]
        if not known:
            chosen.append(group[0])
            continue
        good = [one for one in known if (one.rmse or 0.0) <= limit]
        best = min(good, key=_median) if good else min(known, key=lambda one: one.rmse or 0.0)
        system = next(s for s in group if s.key == best.system.key)
        chosen.append(_deciding(system, best))
    order = {system.key: index for index, system in enumerate(systems)}
    return sorted(chosen, key=lambda system: order[system.key]), errors


def _median(one: Seen) -> float:
    return float(np.median(one.seconds))


def _deciding(system: System, seen: Seen) -> System:
    if system.system not in _DECIDING or seen.computed is None:
        return system
    return msgspec.structs.replace(system, options={**system.options, "computed": seen.computed})
