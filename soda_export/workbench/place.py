"""Put a finished bundle in its place: in one exchange with the bundle that is there, and over nothing else."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from pathlib import Path

from ..errors import ExportError
from ..files import bundle_files

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux's renameat2
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)


def check_place(out: Path) -> None:
    """Refuse a place that holds anything but a bundle of ours, of any version, or nothing. Raises ExportError.

    A bundle's folder has a manifest of the right format, and only files that it lists.
    """
    if not os.path.lexists(out):
        above = next(each for each in out.parents if os.path.lexists(each))
        if not above.is_dir():
            raise ExportError(f"--out {out}: {above} is not a folder; name another one")
        return
    if out.is_dir():
        names = {path.name for path in out.iterdir()}
        if not names:
            return
        listed = bundle_files(out)
        if listed is not None and names <= listed and not any((out / name).is_dir() for name in names):
            return
        odd = sorted(names - listed) if listed is not None else []
        what = f"holds {odd[0]}, which its manifest does not list" if odd else "exists and is not a bundle"
    else:
        what = "exists and is not a bundle"
    raise ExportError(f"--out {out}: {what}; name another folder, or remove it")


def put_in_place(staging: Path, out: Path) -> None:
    """Rename staging to out. A bundle that is there changes places with it in one call, and is removed.

    Where the file system cannot exchange, the old one is moved beside `out` first; `restore` puts it back after a kill
    in between. Raises ExportError.
    """
    out = out.resolve()
    check_place(out)
    try:
        if out.exists() and _exchange(staging, out):
            shutil.rmtree(staging, ignore_errors=True)
            return
        aside = _aside(out)
        if out.exists():
            out.rename(aside)
        try:
            staging.rename(out)
        except BaseException:
            restore(out)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        if error.errno == errno.EXDEV:
            reason = f"it lies in another layer of the file system, which cannot rename it; `rm -r {out}` first"
        else:
            reason = f"{error.strerror}; is another build writing it?"
        raise ExportError(f"--out {out}: cannot be put in place ({reason})") from None


def restore(out: Path) -> None:
    """Undo half a replacement: the old bundle goes back where no new one is, and goes away where one is."""
    aside = _aside(out)
    if aside.is_dir() and not out.exists():
        aside.rename(out)
    elif aside.is_dir():
        shutil.rmtree(aside, ignore_errors=True)


def _aside(out: Path) -> Path:
    return out.with_name(f".{out.name}.replaced")


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change places in one call of the system; False where it has no such call."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code))
