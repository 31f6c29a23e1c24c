"""Remember measurements by key in a file of one JSON object a line, each written as soon as it is there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from ..files import naming, write_whole


class Journal:
    """Without a path it remembers in memory only. A line that was cut off, by a kill or a full disk, is dropped."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._known: dict[str, list[float]] = {}
        if path is not None and path.is_file():
            content = path.read_text(errors="replace")
            for line in content.splitlines():
                try:
                    entry = json.loads(line)
                    self._known[str(entry["key"])] = [float(value) for value in entry["value"]]
                except (ValueError, KeyError, TypeError, RecursionError):
                    continue
            if content and not content.endswith("\n"):  # the next line would become part of the half one
                write_whole(path, content[: content.rfind("\n") + 1].encode())

    def recall(self, key: str, measure: Callable[[], list[float]]) -> list[float]:
        """The value, measured and remembered where it is not known."""
        known = self.get(key)
        if known is None:
            known = measure()
            self.add(key, known)
        return known

    def get(self, key: str) -> list[float] | None:
        """The value, or None."""
        return self._known.get(key)

    def add(self, key: str, value: list[float]) -> None:
        """Remember a value. Raises UsageError where the file cannot be written."""
        self._known[key] = value
        if self._path is not None:
            with naming(self._path), self._path.open("a") as file:
                file.write(json.dumps({"key": key, "value": value}) + "\n")
