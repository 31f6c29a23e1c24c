"""Remember which files have been hashed, so that a large weights file is hashed once and not at every open.

A file counts as known while its path, size, modification time and inode are the same. The memory is a cache in the
user's cache folder: losing it, or failing to write it, only means that a hash is computed again.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from .manifest import FileEntry


def cache_folder() -> Path:
    """The user's folder for what can be made again."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "soda_runtime"


def _memory_file() -> Path:
    return cache_folder() / "verified.json"


def _stamp(path: Path) -> list[int]:
    info = path.stat()
    return [info.st_size, info.st_mtime_ns, info.st_ino]


def _load_memory() -> dict[str, list[object]]:
    """What earlier openings remembered of files that still exist; nothing where it cannot be read."""
    try:
        known = json.loads(_memory_file().read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return {name: stamp for name, stamp in known.items() if _exists(name)} if isinstance(known, dict) else {}


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except (OSError, ValueError):
        return False


def is_remembered(path: Path, entry: FileEntry) -> bool:
    return _load_memory().get(str(path.resolve())) == [entry.sha256, *_stamp(path)]


def remember(path: Path, entry: FileEntry) -> None:
    """Best effort: a cache that cannot be written only means that the hash is computed again."""
    memory = _memory_file()
    known = {**_load_memory(), str(path.resolve()): [entry.sha256, *_stamp(path)]}
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        scratch = memory.with_suffix(f".{os.getpid()}.tmp")
        scratch.write_text(json.dumps(known, indent=0))
        scratch.replace(memory)
    except OSError:
        return
