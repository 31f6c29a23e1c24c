"""Write a file whole or not at all, and never over what is not ours to replace."""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from soda_runtime.errors import SodaError
from soda_runtime.scratch import is_abandoned, owner

from .errors import UsageError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NATIVE = re.compile(r"\(os error (\d+)\)")  # how libraries in Rust say what the system said
_NAME_CHARACTERS = 40  # of a file's name in that of its temporary file: names have at most 255 bytes
_BUNDLE_FORMAT = "soda-bundle"
_LONGEST = 1 << 28  # bytes of a file that is read to tell its kind


def write_whole(path: Path, content: bytes) -> None:
    """Write through a temporary file in the same folder, or into a device or pipe as it is. Raises UsageError."""
    if not _is_stream(path):
        with replacing(path) as scratch:
            scratch.write_bytes(content)
        return
    with naming(path), path.open("wb") as stream:
        stream.write(content)


@contextlib.contextmanager
def naming(place: Path) -> Iterator[None]:
    """Turn an error of the file system in the body into a UsageError that names `place`, which is written to.

    A write that fails names no file, a copy that fails names its source, and some libraries have errors of their own.
    An error about another place keeps that one's name; a SodaError stays as it is.
    """
    try:
        yield
    except SodaError:
        raise
    except OSError as error:
        written = error.filename2 or error.filename
        if written is not None and error.errno not in (*_FULL, errno.EROFS):
            raise
        path = place if written is None else Path(os.fsdecode(written))
        own = place.resolve()
        where = place if {own, own.parent} & set(path.resolve().parents) else path  # a temporary name says less
        raise UsageError(f"{where}: {_why(error.errno, error.strerror or str(error))}") from None
    except Exception as error:
        found = _NATIVE.search(str(error))
        if found is None:
            raise
        code = int(found[1])
        raise UsageError(f"{place}: {_why(code, os.strerror(code))}") from None


def _why(code: int | None, text: str) -> str:
    cure = "; free some, or name a place on another disk, and run the same command again" if code in _FULL else ""
    return f"cannot be written ({text}){cure}"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file in the same folder to fill; it becomes `path` when the body ends, and is gone if it fails.

    Where `path` is a link, the file that it leads to is replaced. An error of the file system is a UsageError. What a
    killed process left half-written of the same file is removed.
    """
    if path.exists() and not path.is_file():
        raise UsageError(f"{path}: is not a regular file; name another")
    target = path.resolve()
    scratch = _scratch(target)
    _sweep(target)
    try:
        with naming(path):
            yield scratch
            scratch.replace(target)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink()


def _scratch(target: Path) -> Path:
    return target.with_name(f"{_stem(target)}{owner()}.tmp")


def _stem(target: Path) -> str:
    return f".{target.name[:_NAME_CHARACTERS]}."


def temporary_files(target: Path) -> list[Path]:
    """What processes write, or wrote until they were killed, to put it in the place of `target`."""
    return sorted(target.parent.glob(f"{glob.escape(_stem(target))}*.tmp"))


def _sweep(target: Path) -> None:
    """Remove the temporary files of processes that were killed while they wrote the same file."""
    for left in temporary_files(target):
        if is_abandoned(left, left.name.removeprefix(_stem(target))):
            with contextlib.suppress(OSError):
                left.unlink()


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
    "a .mp4 video": lambda content: content[4:8] == b"ftyp",
    "a .gif video": lambda content: content.startswith(b"GIF8"),
    "a .wav sound": lambda content: content.startswith(b"RIFF") and content[8:12] == b"WAVE",
    "a .npy array": lambda content: content.startswith(b"\x93NUMPY"),
    "a report": lambda content: b'content="soda-export report"' in content[:1000],
    "a page of soda-export bench": lambda content: b"\nMedians of " in content[:1000],
}
"""What the command line writes -> whether a file is one."""
