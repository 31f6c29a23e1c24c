"""The processor's energy counter, where the platform has one and lets it be read (Linux powercap)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_COUNTERS = Path("/sys/class/powercap")


class EnergyMeter:
    """Adds up the packages' counters; `joules` is None where there are none."""

    def __init__(self, root: Path = _COUNTERS) -> None:
        zones = [zone for zone in sorted(root.glob("*rapl:[0-9]*")) if zone.name.count(":") == 1]
        self._zones = [zone for zone in zones if _read(zone / "energy_uj") is not None]
        self._wrap = [_read(zone / "max_energy_range_uj") or 0 for zone in self._zones]

    def read(self) -> tuple[int, ...]:
        """The counters now, in microjoules."""
        return tuple(_read(zone / "energy_uj") or 0 for zone in self._zones)

    def joules(self, before: Sequence[int], after: Sequence[int]) -> float | None:
        """Between two readings. A counter that wrapped around in between is unwrapped."""
        if not self._zones:
            return None
        spent = (b - a if b >= a else b - a + wrap for a, b, wrap in zip(before, after, self._wrap, strict=True))
        return sum(spent) / 1e6


def _read(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
