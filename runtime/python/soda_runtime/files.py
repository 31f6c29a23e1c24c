"""Files of a bundle: regular ones, perhaps behind a symbolic link, and stamps that tell whether one was replaced."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from .errors import BundleError

REBUILD = "copy the bundle again or rebuild it with `soda-export build`"
_REPLACED = "changed since the bundle was opened: the bundle was replaced; open it again"


class Stamp(NamedTuple):
    """What tells a file from another one in its place. A link's is that of its target."""

    device: int
    inode: int
    bytes: int
    modified_ns: int


def stamp_of(path: Path) -> Stamp:
    """Raises OSError."""
    info = path.stat()
    return Stamp(info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)


def require_regular_file(path: Path, max_bytes: int) -> Stamp:
    """A regular file of at most `max_bytes`, or a link to one: what is in it is for hashes to decide."""
    try:
        info = path.stat()
    except OSError:
        raise BundleError(f"{path}: missing; {REBUILD}") from None
    if not stat.S_ISREG(info.st_mode):
        raise BundleError(f"{path}: not a regular file; {REBUILD}")
    if info.st_size > max_bytes:
        raise BundleError(f"{path}: {info.st_size} bytes, at most {max_bytes} are expected; {REBUILD}")
    return Stamp(info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)


@contextmanager
def refusing_unreadable(folder: Path) -> Iterator[None]:
    """Turn an error of the file system into a BundleError."""
    try:
        yield
    except OSError as error:
        raise BundleError(f"{error.filename or folder}: cannot be read ({error.strerror}); {REBUILD}") from None


class CheckedFiles:
    """The files of a folder as they were when they were checked."""

    def __init__(self, folder: Path, stamps: Mapping[str, Stamp]) -> None:
        self._folder, self._stamps = folder, stamps

    def require_same(self, names: Iterable[str]) -> None:
        """Whatever is opened by path later is what was checked. Raises BundleError."""
        for name in names:
            path = self._folder / name
            try:
                found = stamp_of(path)
            except OSError:
                raise BundleError(f"{path}: gone, {_REPLACED}") from None
            if found != self._stamps[name]:
                raise BundleError(f"{path}: {_REPLACED}")

    def require_untouched(self, names: Iterable[str]) -> None:
        """No file that engines may have mapped was written to in its place. Raises BundleError.

        Another file of that name is no matter: what was mapped is still there.
        """
        for name in names:
            path, known = self._folder / name, self._stamps[name]
            try:
                found = stamp_of(path)
            except OSError:
                continue
            if found[:2] == known[:2] and found != known:
                raise BundleError(f"{path}: written to while the bundle is open; put files in place by renaming them")

    def link_among(self, names: Iterable[str]) -> Path | None:
        """The first of these that is a symbolic link."""
        return next((self._folder / name for name in names if (self._folder / name).is_symlink()), None)


def identity_of(folder: str | os.PathLike[str], manifest: str) -> tuple[object, ...] | None:
    """What changes where another bundle is put in a folder's place; None where there is none."""
    try:
        real = Path(os.path.realpath(folder))
        info = real.stat()
        return real, info.st_dev, info.st_ino, stamp_of(real / manifest)
    except (OSError, ValueError):  # a path with a NUL
        return None
