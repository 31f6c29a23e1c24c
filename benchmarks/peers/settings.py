"""Which settings a model with random weights is played with: those that did best on the trained one."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from .measure import Seen
from .systems import COMPILED, OURS, REFERENCE, System

_DECIDING = (
    "diffusers FirstBlockCache", "torch.compile + diffusers FirstBlockCache", "diffusers MagCache", "cache-dit",
)  # fmt: skip
"""Caches that decide by what they measure, which random weights would make meaningless: they follow a mask instead."""


def settings_like(seen: Sequence[Seen], systems: Sequence[System]) -> tuple[list[System], dict[str, float]]:
    """The systems to play, and by key the errors that they are judged by.

    Of each peer and precision, for each of our bundles, the setting that saves most work at no larger error than the
    bundle's, or where there is none the one with the smallest error. Caches that decide while they play take the
    decisions they took on the trained model.
    """
    by_key = {one.system.key: one for one in seen}
    errors = {one.system.key: one.rmse for one in seen if one.rmse is not None}
    limits = {errors[s.key] for s in systems if s.system.startswith(OURS) and s.baseline and s.key in errors}
    kept: set[str] = set()
    groups: dict[tuple[str, str], list[System]] = {}
    for system in systems:
        if system.system.startswith(OURS) or system.system in (REFERENCE, COMPILED):
            kept.add(system.key)
        else:
            groups.setdefault((system.system, system.precision), []).append(system)
    for group in groups.values():
        known = [by_key[system.key] for system in group if system.key in errors]
        kept |= {_best(known, limit) for limit in limits} if known and limits else {group[0].key}
    return [_deciding(system, by_key.get(system.key)) for system in systems if system.key in kept], errors


def _best(known: Sequence[Seen], limit: float) -> str:
    good = [one for one in known if (one.rmse or 0.0) <= limit]
    if good:
        return max(good, key=lambda one: one.flops_ratio).system.key
    return min(known, key=lambda one: one.rmse or 0.0).system.key


def _deciding(system: System, seen: Seen | None) -> System:
    if system.system not in _DECIDING or seen is None or seen.computed is None:
        return system
    return msgspec.structs.replace(system, options={**system.options, "computed": seen.computed})
