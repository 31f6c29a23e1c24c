"""What this machine has, and what this process takes of it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # of Linux
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST_KEPT, _MOST_KEPT = 256 << 20, 1 << 30  # bytes


def memory_bytes(limit: Path = _LIMIT) -> int:
    """Memory of this machine or container in bytes; 0 where the system does not say."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    try:
        return min(total, int(limit.read_text()))
    except (OSError, ValueError):  # no container, or "max"
        return total


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for what is allocated next, where it is glibc.

    By itself it gives each block of some megabytes back and asks for new pages, which the system clears one by one:
    eager torch, which allocates every activation anew, spends a third of its time and more on that. Larger blocks than
    256 MB are left to the system, and so is what is free beyond 1 GB.
    """
    adjust = _of_glibc("mallopt")
    if adjust is not None:
        adjust(_MMAP_THRESHOLD, _LARGEST_KEPT)
        adjust(_TRIM_THRESHOLD, _MOST_KEPT)


def process_bytes(field: str) -> int:
    """A size that Linux has of this process, in bytes: VmRSS, VmHWM (the peak of it), RssAnon. 0 on other systems."""
    for line in _STATUS.read_text().splitlines() if _STATUS.exists() else ():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    return 0


def forget_peak() -> None:
    """Give freed memory back, where the C library is glibc, and count VmHWM from here on, where the system is Linux."""
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)
    if _CLEAR.exists():
        _CLEAR.write_text("5")


def _of_glibc(name: str) -> Callable[..., int] | None:
    """A function that glibc has and other C libraries need not."""
    return getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None
