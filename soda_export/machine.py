"""What this machine has."""

from __future__ import annotations

import os
from pathlib import Path

_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container


def memory_bytes(limit: Path = _LIMIT) -> int:
    """Memory of this machine or container in bytes; 0 where the system does not say."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    try:
        return min(total, int(limit.read_text()))
    except (OSError, ValueError):  # no container, or "max"
        return total
