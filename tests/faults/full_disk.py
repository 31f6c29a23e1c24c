"""Run verbs on a disk that is full after so many pages, or after so many files: a small tmpfs, so that a library's own
writes fail, too, in the system and not in a stand-in. Needs the right to mount.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .cases import Case
from .places import Places

PAGE = os.sysconf("SC_PAGE_SIZE")
_ROOMY_PAGES, _ROOMY_FILES = 16384, 4096
_LINE = re.compile(r"soda-export: (--out )?(?P<place>.+?): (cannot be (written|made) \()?No space left on device")


class Disk:
    """A tmpfs. pages and files: what is in use, the folders among the files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def pages(self) -> int:
        """Pages in use."""
        info = os.statvfs(self.folder)
        return (info.f_blocks - info.f_bfree) * info.f_frsize // PAGE

    @property
    def files(self) -> int:
        """Files and folders in use."""
        info = os.statvfs(self.folder)
        return info.f_files - info.f_ffree

    def limit(self, pages: int = _ROOMY_PAGES, files: int = _ROOMY_FILES) -> None:
        """Let the disk hold so much and no more."""
        options = f"remount,size={max(1, pages) * PAGE},nr_inodes={files}"  # of no size at all would be without limit
        subprocess.run(["mount", "-o", options, str(self.folder)], check=True, capture_output=True)


@contextlib.contextmanager
def mounted(folder: Path) -> Iterator[Disk]:
    """A roomy tmpfs at a folder. Raises CalledProcessError where mounting is not allowed."""
    options = f"size={_ROOMY_PAGES * PAGE},nr_inodes={_ROOMY_FILES}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True, capture_output=True)
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", str(folder)], check=True, capture_output=True)


@dataclass(frozen=True)
class Need:
    """What a case takes of a disk at most, beside what is there before: pages and files."""

    pages: int
    files: int


def need_of(places: Places, case: Case, folder: Path) -> Need:
    """Measured by halving: the least pages, and the least files, with which the verb ends well."""

    def ends_well(pages: int, files: int) -> bool:
        with mounted(folder) as disk:
            places.prepare(case, folder)
            disk.limit(disk.pages + pages, disk.files + files)
            return places.run(case, folder).code == 0

    found = []
    for which in (0, 1):
        low, high = -1, 512
        while high - low > 1:
            middle = (low + high) // 2
            roomy = [2048, 2048]
            roomy[which] = middle
            low, high = (low, middle) if ends_well(*roomy) else (middle, high)
        found.append(high)
    return Need(*found)


def fill(places: Places, case: Case, folder: Path, pages: int = 2048, files: int = 2048) -> str:
    """Run the verb with so much room, look at what it left, give it room, and run it again.

    The line that it said, "" where the room was enough. AssertionError says what was wrong.
    """
    where = f"{case.name} with {pages} pages and {files} files"
    with mounted(folder) as disk:
        places.prepare(case, folder)
        disk.limit(disk.pages + pages, disk.files + files)
        done = places.run(case, folder)
        places.check_left(case, folder, where)
        temporary = [path.name for path in folder.rglob("*") if path.name.startswith(("tmp-", "bundle-"))]
        assert not temporary, f"{where}: left {temporary}"
        disk.limit()
        line = ""
        if done.code:
            line = done.error.strip().splitlines()[-1]
            match = _LINE.match(line)
            assert done.code == 2, f"{where}: exit code {done.code}: {done.error[-2000:]}"
            assert match, f"{where}: said {line}"
            assert "Traceback" not in done.error, f"{where}: {done.error}"
            named = (folder / match["place"]).resolve()
            assert named == folder or folder in named.parents, f"{where}: named {named}"
        places.check_next_run(case, folder, where)
    return line
