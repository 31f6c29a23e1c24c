"""Names for what is unfinished that say whose it is, so that what a killed process left is told from another's work."""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
import time
from functools import cache
from pathlib import Path

_FOREIGN_SECONDS = 7 * 86400  # after which what another host left, whose processes nobody can see, is old


def owner() -> str:
    """SYSTEM-PROCESS-RANDOM: a part of a name that no other process, here or on another host, uses."""
    return f"{_system()}-{os.getpid()}-{secrets.token_hex(4)}"


def is_abandoned(path: Path, owned_by: str) -> bool:
    """Whether nobody will finish what lies at `path`: `owner()` of the process that made it has ended.

    Of another host's processes, and where `owned_by` names none, the age decides. A time in the future is as far from
    now as one in the past: a clock that was put back makes nothing live for ever.
    """
    system, process, *_ = (*owned_by.split("-"), "", "")
    if system == _system() and process.isdecimal():
        return not _is_running(int(process))
    try:
        return abs(time.time() - path.lstat().st_mtime) > _FOREIGN_SECONDS
    except OSError:
        return False


@cache
def _system() -> str:
    """8 hex digits for what a process number means something in: a host since it started, or a container on it."""
    boot, processes = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    text = f"{socket.gethostname()} {boot.read_text() if boot.exists() else ''} "
    text += str(processes.readlink()) if processes.is_symlink() else ""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
