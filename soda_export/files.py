"""Write a file whole or not at all, and never over what is not ours to replace."""

from __future__ import annotations

import contextlib
import json
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .errors import UsageError

_BUNDLE_FORMAT = "soda-bundle"
_LONGEST = 1 << 28  # bytes of a file that is read to tell its kind


def write_whole(path: Path, content: bytes) -> None:
    """Write through a temporary file in the same folder, or into a device or pipe as it is. Raises UsageError."""
    if not _is_stream(path):
        with replacing(path) as scratch:
            scratch.write_bytes(content)
        return
    try:
        with path.open("wb") as stream:
            stream.write(content)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror})") from None


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file in the same folder to fill; it becomes `path` when the body ends, and is gone if it fails.

    Where `path` is a link, the file that it leads to is replaced. An error of the file system is a UsageError.
    """
    if path.exists() and not path.is_file():
        raise UsageError(f"{path}: is not a regular file; name another")
    target = path.resolve()
    scratch = _scratch(target)
    try:
        yield scratch
        scratch.replace(target)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink()


def _scratch(target: Path) -> Path:
    return target.with_name(f".{target.name[:200]}.{secrets.token_hex(4)}.tmp")


def check_out(path: Path, kind: str) -> None:
    """Refuse an --out that would destroy something: what is there must be of the same kind (a key of KINDS), or empty.

    Raises UsageError, before anything was computed.
    """
    if path.is_dir():
        raise UsageError(f"--out {path}: is a folder; name a file")
    if not path.parent.is_dir():
        raise UsageError(f"--out {path}: the folder {path.parent} does not exist")
    if path.exists() and not path.is_file() and not _is_stream(path):
        raise UsageError(f"--out {path}: is neither a regular file nor a stream; name another")
    if is_bundle(path.resolve().parent):
        raise UsageError(f"--out {path}: lies inside a bundle, whose files are hashed; name a place outside")
    if not _is_stream(path):
        _check_writable(path)
    if path.is_file() and path.stat().st_size and not _is_kind(path, kind):
        raise UsageError(f"--out {path}: exists and is not {kind}; name another file")


def _check_writable(path: Path) -> None:
    """Make a file beside it and take it away: permissions and read-only mounts have no other sure test."""
    scratch = _scratch(path.resolve())
    try:
        scratch.touch()
        scratch.unlink()
    except OSError as error:
        raise UsageError(f"--out {path}: cannot be written ({error.strerror}); name another place") from None


def is_bundle(folder: Path) -> bool:
    """Whether a folder has a bundle's manifest, of any version."""
    return bundle_files(folder) is not None


def bundle_files(folder: Path) -> frozenset[str] | None:
    """Names of the files that a bundle's manifest lists, its own included; None where the folder has none."""
    manifest = folder / "manifest.json"
    try:
        fields = json.loads(manifest.read_bytes()) if manifest.is_file() else None
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(fields, dict) or fields.get("format") != _BUNDLE_FORMAT:
        return None
    listed = fields.get("files")
    return frozenset({manifest.name, *listed}) if isinstance(listed, dict) else None


def _is_stream(path: Path) -> bool:
    """Whether a path leads to what bytes are written into: a character device, such as /dev/null, or a pipe."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)


def _is_kind(path: Path, kind: str) -> bool:
    try:
        with path.open("rb") as file:
            return KINDS[kind](file.read(_LONGEST))
    except (OSError, ValueError, RecursionError):
        return False


def _is_plan(content: bytes) -> bool:
    fields = json.loads(content)
    return isinstance(fields, dict) and fields.get("format") == "soda-plan"


def _is_map(content: bytes) -> bool:
    size = int.from_bytes(content[:8], "little")
    info = json.loads(content[8 : 8 + size]).get("__metadata__", {}).get("info", "")
    return isinstance(info, str) and json.loads(info).get("format") == "soda-map"


def _is_schedule(content: bytes) -> bool:
    """Another tool's: an object of lists of 0 and 1, or with a step mask."""
    fields: Any = json.loads(content)
    if not isinstance(fields, dict):
        return False
    lists = fields.get("cache_config", fields)
    ones = [value for value in lists.values() if isinstance(value, list)]
    return bool(ones) and all(set(map(str, value)) <= {"0", "1"} for value in ones)


KINDS: dict[str, Callable[[bytes], bool]] = {
    "a plan": _is_plan,
    "a sensitivity map": _is_map,
    "a schedule of another tool": _is_schedule,
    "a .png picture": lambda content: content.startswith(b"\x89PNG"),
    "a .svg picture": lambda content: b"<svg" in content[:1000],
    "a .npy array": lambda content: content.startswith(b"\x93NUMPY"),
    "a page of soda-export bench": lambda content: b"\nMedians of " in content[:1000],
}
"""What the command line writes -> whether a file is one."""
