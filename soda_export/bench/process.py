"""What this process is given of the machine: processors, places to write, encoding; and what may surprise it."""

from __future__ import annotations

import importlib.metadata
import locale
import os
import shutil
import sys
import tempfile
from pathlib import Path

import msgspec

_ONNXRUNTIME = "onnxruntime"


class Process(msgspec.Struct, frozen=True):
    """usable_cores: those that the affinity and the cgroup's quota leave, a quota of 1.5 is 1.5 cores. home: "" where
    there is none; cache_writable: whether hashes of bundles can be remembered there. onnxruntime_of: distributions that
    put files into onnxruntime/; with several, those installed last win, file by file."""

    encoding: str
    usable_cores: float
    quota_cores: float | None
    omp_threads: str
    home: str
    cache: str
    cache_writable: bool
    temporary: str
    temporary_free_bytes: int
    onnxruntime_of: tuple[str, ...]
    fork: str


def describe_process(cgroup: Path = Path("/sys/fs/cgroup")) -> Process:
    """Look; nothing is written."""
    quota = _quota(cgroup)
    cores = float(len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else float(os.cpu_count() or 1)
    home, temporary = _home(), tempfile.gettempdir()
    cache = os.environ.get("XDG_CACHE_HOME") or (f"{home}/.cache" if home else "")
    return Process(
        encoding=f"{locale.setlocale(locale.LC_CTYPE)}, {sys.getfilesystemencoding()} for names, "
                 f"{getattr(sys.stdout, 'encoding', None) or 'none'} for output",
        usable_cores=cores if quota is None else min(cores, quota), quota_cores=quota,
        omp_threads=os.environ.get("OMP_NUM_THREADS", ""), home=home, cache=cache, cache_writable=_is_writable(cache),
        temporary=temporary, temporary_free_bytes=shutil.disk_usage(temporary).free,
        onnxruntime_of=owners(_ONNXRUNTIME),
        fork="a bundle plays only in the process that opened it: open it after a fork, or start workers by spawn",
    )  # fmt: skip


def owners(package: str) -> tuple[str, ...]:
    """Distributions with files in the folder of a package, with their versions."""
    found = {
        f"{each.name} {each.version}"
        for each in importlib.metadata.distributions()
        if any(file.parts[:1] == (package,) for file in each.files or ())
    }
    return tuple(sorted(found))


def _quota(cgroup: Path) -> float | None:
    """Cores that a container's quota of processor time is, of cgroup 2 or 1; None without one."""
    try:
        if (cgroup / "cpu.max").is_file():
            most, period = (cgroup / "cpu.max").read_text().split()
        else:
            most, period = (
                (cgroup / "cpu" / name).read_text().strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            )
        return int(most) / int(period) if int(most) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # "max" is no limit
        return None


def _home() -> str:
    try:
        return str(Path.home())
    except RuntimeError:
        return ""


def _is_writable(folder: str) -> bool:
    """Whether a folder, or the first above it that is there, can be written into."""
    if not folder:
        return False
    there = next((each for each in (Path(folder), *Path(folder).parents) if each.exists()), Path("/"))
    return there.is_dir() and os.access(there, os.W_OK)
