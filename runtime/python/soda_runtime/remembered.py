"""Remember which files have been hashed, so that a large weights file is hashed once and not at every open.

A file counts as known while its path, size, times of modification and of change, and inode are the same. The memory is
a cache in the user's cache folder: losing it, or failing to write it, only means that a hash is computed again.
"""

from __future__ import annotations

import glob
import json
import os
import stat
from contextlib import suppress
from pathlib import Path

from .files import Stamp, stamp_of
from .manifest import FileEntry
from .scratch import is_abandoned, owner

_MAX_FILES, _MAX_BYTES = 1000, 16 << 20  # of the memory; what is beyond is forgotten, the first entries first


def cache_folder() -> Path | None:
    """The user's folder for what can be made again; None where the user has none."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "soda_runtime"
    except RuntimeError:  # no HOME, and no entry in passwd
        return None


def read_cached(path: Path, max_bytes: int) -> bytes:
    """A regular file of the cache, never waiting for a pipe; empty where it cannot be read."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            info = os.fstat(file.fileno())
            return file.read() if stat.S_ISREG(info.st_mode) and info.st_size <= max_bytes else b""
    except (OSError, ValueError):
        return b""


def write_cached(path: Path, content: bytes) -> None:
    """Write a file of the cache whole or not at all; best effort. Scratch files that a killed writer left are swept."""
    scratch = path.with_name(f"{path.name}.{owner()}.tmp")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            scratch.write_bytes(content)
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)
        for other in path.parent.glob(f"{glob.escape(path.name)}.*.tmp"):
            if is_abandoned(other, other.name.removeprefix(f"{path.name}.")):
                other.unlink(missing_ok=True)


def is_remembered(path: Path, entry: FileEntry) -> bool:
    """Whether the file, as it is now, has been hashed to what the manifest says."""
    return _load_memory().get(os.path.realpath(path)) == _known(entry, path)


def remember(path: Path, entry: FileEntry, hashed: Stamp) -> None:
    """Keep that the file has this hash, unless it has changed since it had the stamp `hashed`; best effort."""
    folder = cache_folder()
    if folder is None or stamp_of(path) != hashed:
        return
    known = _load_memory()
    name = os.path.realpath(path)
    known.pop(name, None)
    kept = dict([*known.items(), (name, _known(entry, path))][-_MAX_FILES:])
    write_cached(folder / "verified.json", json.dumps(kept, indent=0).encode())


def _known(entry: FileEntry, path: Path) -> list[object]:
    info = path.stat()
    return [entry.sha256, info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino]


def _load_memory() -> dict[str, object]:
    """What earlier openings remembered; nothing where it cannot be read."""
    folder = cache_folder()
    try:
        known = json.loads(read_cached(folder / "verified.json", _MAX_BYTES)) if folder is not None else {}
    except (ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}
