"""Play all systems in turn, round after round, and keep what was seen."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .case import Case
from .hosts import Hosts
from .player import PeerError
from .systems import EAGER, System

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Budget:
    """rounds: most rounds. minutes: no round begins that would end later; the first one, in which systems are opened,
    may take half as long again. limit_s: longest that a system may take to open or to play one round."""

    rounds: int
    minutes: float
    limit_s: float
    free_bytes: float
    memory: bool


@dataclass
class Seen:
    """What was seen of a system. seconds: of every request and round. reason: why there is no more."""

    system: System
    seconds: list[float] = field(default_factory=list)
    flops_ratio: float = 0.0
    computed: list[bool] | None = None
    open_s: float = 0.0
    rmse: float | None = None
    relative_rmse: float | None = None
    peak_bytes: int | None = None
    reason: str = ""


def measure(
    case: Case, systems: Sequence[System], place: Path, budget: Budget, keep: Callable[[list[Seen]], None]
) -> list[Seen]:
    """Every system's latencies and errors. keep: called with what is known so far, whenever there is more.

    The reference for errors is diffusers in eager float32, which is played first.
    """
    started = time.monotonic()
    case.save(place)
    seen = [Seen(system, flops_ratio=system.flops_ratio, reason=system.reason) for system in systems]
    seen.sort(key=lambda one: (one.system.system, one.system.precision) != (EAGER, "fp32"))
    reference: NDArray[np.float32] | None = None
    with Hosts(place, case.threads, budget.limit_s, budget.free_bytes) as hosts:
        last = 0.0  # seconds that playing took in the last round, opening left out
        for number in range(budget.rounds):
            began = time.monotonic()
            spent = began - started
            if number and spent + last > 60 * budget.minutes:
                log.info("%s: %d rounds took %.0f s of %.0f", case.model, number, spent, 60 * budget.minutes)
                break
            for one in seen if number % 2 == 0 else reversed(seen):
                if one.reason:
                    continue
                if not number and time.monotonic() - started > 90 * budget.minutes:
                    one.reason = f"not reached within {budget.minutes:g} minutes"
                    continue
                found = _play(hosts, one, None if number else place / "latents.npy")
                if found is not None:
                    reference = found if reference is None else reference
                    one.rmse, one.relative_rmse = _error(found, reference)
                keep(seen)
                if reference is None:
                    for other in seen:
                        other.reason = other.reason or f"nothing to judge by: {one.system.key}: {one.reason}"
            last = sum(sum(one.seconds) for one in seen) / (number + 1)
            log.info("%s: round %d of %d, %.0f s", case.model, number + 1, budget.rounds, time.monotonic() - began)
        if budget.memory:
            hosts.stop_all()
            _measure_memory(hosts, seen, keep)
    return seen


def _play(hosts: Hosts, one: Seen, save: Path | None) -> NDArray[np.float32] | None:
    try:
        seconds, opened = hosts.play(one.system, save)
    except PeerError as error:
        one.reason = str(error)
        log.info("%s: %s", one.system.key, error)
        return None
    one.seconds += seconds
    if opened and not one.open_s:
        one.open_s, one.computed = opened["open_s"], opened["computed"]
        one.flops_ratio = one.flops_ratio or opened["flops_ratio"]
    log.info("%s: %.3f s, opened in %.1f s", one.system.key, float(np.median(seconds)), one.open_s)
    return None if save is None else np.load(save)


def _error(latents: NDArray[np.float32], reference: NDArray[np.float32]) -> tuple[float, float]:
    """RMSE, and its share of the reference's root mean square."""
    difference = latents.astype(np.float64) - reference
    rmse = float(np.sqrt(np.mean(difference**2)))
    return rmse, rmse / float(np.sqrt(np.mean(reference.astype(np.float64) ** 2)))


def _measure_memory(hosts: Hosts, seen: list[Seen], keep: Callable[[list[Seen]], None]) -> None:
    """Settings of one system keep the same tensors, so the first stands for all; each bundle has its own engines."""
    known: dict[tuple[str, str], int] = {}
    for one in seen:
        key = (one.system.system, one.system.precision)
        if one.reason:
            continue
        if key not in known or one.system.kind == "bundles":
            try:
                known[key] = hosts.memory(one.system)
            except PeerError as error:
                log.info("memory of %s: %s", one.system.key, error)
                continue
        one.peak_bytes = known[key]
        keep(seen)
