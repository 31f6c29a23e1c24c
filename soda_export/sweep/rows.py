"""What a sweep has finished, on disk: a row and its samples' errors at a time, so that a kill costs one unit at most.

DIR/setting.json says what the rows are of, DIR/rows.jsonl has one row a line, DIR/errors one .npy a row (the mean
squared error of each sample's latents) and DIR/plans the plan of each planner and target.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..files import naming, temporary_files, write_whole
from ..plan.plan import plan_text, read_plan
from .unit import Finished, Key, SweepRow, Unit

log = logging.getLogger(__name__)
_SETTING = "setting.json"
_CONDITIONS = "conditions"  # of the setting; older versions did not write them
_SHOWN = 40  # characters of a value in an error


class RowFile:
    """The rows of one folder. Made by one process at a time."""

    def __init__(self, folder: Path, setting: dict[str, Any]) -> None:
        """Open or make the folder. Raises UsageError where its rows are of another setting."""
        self.folder, self._path = folder, folder / "rows.jsonl"
        check_folder(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _check_setting(folder / _SETTING, setting)  # first: a folder with anything else in it is not a sweep's
            for part in ("errors", "plans"):
                (folder / part).mkdir(exist_ok=True)
        except OSError as error:
            raise UsageError(f"--out {folder}: cannot be made ({error.strerror})") from None
        self._rows: dict[Key, SweepRow] = {}
        self._read()

    @property
    def rows(self) -> list[SweepRow]:
        """Every row, by planner, target and seeds."""
        return [self._rows[key] for key in sorted(self._rows)]

    def has(self, unit: Unit) -> bool:
        """Whether a unit's row is there, with its latency where that is wanted."""
        row = self._rows.get(unit.key)
        return row is not None and (not unit.bench or row.latency_s is not None or bool(row.error))

    def add(self, finished: Finished) -> None:
        """Append a row; its errors and its plan are on disk before it is. Raises UsageError where the disk is full."""
        if not finished.row.error:
            content = io.BytesIO()
            np.save(content, finished.errors)
            write_whole(self._errors_path(finished.row.key), content.getvalue())
        if finished.plan is not None:
            write_whole(self._plan_path(finished.row.key), plan_text(finished.plan))
        with naming(self._path), self._path.open("ab") as file:
            file.write(msgspec.json.encode(finished.row) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._rows[finished.row.key] = finished.row

    def with_plan(self, unit: Unit) -> Unit:
        """The unit with the plan that is here from its planner's and target's other seeds, if any."""
        path = self._plan_path(unit.key)
        for row in self._rows.values():
            if row.key[:2] == unit.key[:2] and not row.error and path.is_file():
                return replace(unit, plan=read_plan(path), planning_seconds=row.planning_seconds)
        return unit

    def errors(self, row: SweepRow) -> NDArray[np.float64]:
        """Mean squared error of each sample of a row that is no refusal, [n] in order of seeds."""
        errors: NDArray[np.float64] = np.load(self._errors_path(row.key))
        return errors

    def _errors_path(self, key: Key) -> Path:
        planner, target, seeds = key
        return self.folder / "errors" / f"{planner}-{target:g}-{seeds.replace(':', '-')}.npy"

    def _plan_path(self, key: Key) -> Path:
        return self.folder / "plans" / f"{key[0]}-{key[1]:g}.plan.json"

    def _read(self) -> None:
        """Take what is whole; a line that a kill cut short is dropped, and its unit runs again."""
        if not self._path.is_file():
            return
        content = self._path.read_bytes()
        for line in content.splitlines():
            try:
                row = msgspec.json.decode(line, type=SweepRow)
            except msgspec.DecodeError:
                log.warning("sweep: %s has a half-written row, which is made again", self._path)
                continue
            if row.error or self._errors_path(row.key).is_file():
                self._rows[row.key] = row
        whole = b"".join(msgspec.json.encode(row) + b"\n" for row in self._rows.values())
        if whole != content:
            write_whole(self._path, whole)


def check_folder(folder: Path) -> None:
    """Refuse a folder with anything but a sweep in it, or the first file of one half-written. Raises UsageError."""
    setting = folder / _SETTING
    if folder.is_dir() and not setting.is_file() and set(folder.iterdir()) - {*temporary_files(setting)}:
        raise UsageError(f"--out {folder}: is not empty and holds no sweep; name another folder")


def _check_setting(path: Path, setting: dict[str, Any]) -> None:
    wanted = msgspec.json.encode(setting)
    if not path.is_file():
        write_whole(path, msgspec.json.format(wanted) + b"\n")
        return
    try:
        written = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (ValueError, OSError) as error:  # torn, or unreadable
        raise UsageError(f"--out {path.parent}: {path.name} cannot be read ({error}); name another folder") from None
    new = msgspec.json.decode(wanted)
    is_silent = _CONDITIONS in new and _CONDITIONS not in written
    if is_silent:
        written[_CONDITIONS] = new[_CONDITIONS]
    here, asked = dict(_figures(written)), dict(_figures(new))
    for name in here | asked:
        if here.get(name) != asked.get(name):
            one, other = (msgspec.json.encode(found.get(name)).decode()[:_SHOWN] for found in (here, asked))
            raise UsageError(f"--out {path.parent}: holds a sweep with {name} {one}, not {other}; name another folder")
    if is_silent:
        if any(new[_CONDITIONS].values()):
            log.warning("sweep: %s does not say which prompts or hints its plans were made with; taken as these", path)
        write_whole(path, msgspec.json.format(wanted) + b"\n")


def _figures(setting: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """What is in a setting and its parts, by dotted name."""
    if isinstance(setting, list):
        setting = dict(enumerate(setting))
    if not isinstance(setting, dict):
        yield name, setting
        return
    for key, value in setting.items():
        yield from _figures(value, f"{name}.{key}" if name else key)
