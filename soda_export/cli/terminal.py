"""What verbs say to the terminal: log lines and progress on stderr, results on stdout."""

from __future__ import annotations

import codecs
import io
import json
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

_ASCII = str.maketrans("█·▁▂▃▄▅▆▇…×", "#.1234567.x")
"""Of what is printed: for terminals that cannot show it."""
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_SIGN_SECONDS = 60.0


class Screen(Console):
    """rich's console; where nobody reads any more, the caller is told, as by `print`."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def adapt_output() -> None:
    """Let stdout and stderr show what their encoding has no character for as something else, and never fail."""
    codecs.register_error("soda-ascii", _replace)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="soda-ascii")


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_ASCII)
    return text.encode("ascii", "replace").decode(), error.end


def printable(text: str) -> str:
    """Text of unknown origin, such as a bundle's: what would move the cursor or turn the line around is escaped."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def say(*lines: str) -> None:
    """Lines on stdout."""
    for line in lines:
        print(printable(line))


def start_logging() -> None:
    """One INFO line a stage, on stderr."""

    class Line(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return printable(super().format(record))

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Line("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("soda_export").setLevel(logging.INFO)


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each stage that takes more than one unit; where stderr is no terminal, a line a minute."""
    console = Screen(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars,
        _signs(not console.is_terminal) as state,
    ):
        tasks: dict[str, Any] = {}

        def update(stage: str, done: int, total: int) -> None:
            if total > 1:
                state[:] = [stage, done, total]
                if stage not in tasks:
                    tasks[stage] = bars.add_task(stage, total=total)
                bars.update(tasks[stage], completed=done, total=total)

        yield update


@contextmanager
def _signs(wanted: bool) -> Iterator[list[Any]]:
    """While this lasts, a line on stderr every _SIGN_SECONDS about the [stage, done, total] in the list."""
    state: list[Any] = []
    over, started = threading.Event(), time.monotonic()

    def speak() -> None:
        while not over.wait(_SIGN_SECONDS):
            where = "{}: {} of {}".format(*state) if state else "at work"
            print(f"{where}, {(time.monotonic() - started) / 60:.0f} min", file=sys.stderr, flush=True)

    speaker = threading.Thread(target=speak, daemon=True)
    if wanted and sys.stderr is not None:
        speaker.start()
    try:
        yield state
    finally:
        over.set()


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(msgspec.to_builtins(value), indent=2, allow_nan=False))


def print_table(title: str, rows: list[tuple[str, str]]) -> None:
    """A two-column table on stdout."""
    table = Table(title=Text(printable(title)), show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))  # Text: brackets in names are not markup
    Screen().print(table)


def print_columns(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table with a heading for each column on stdout; numbers stand to the right."""
    table = Table(title=Text(printable(title)), title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(Text(printable(column)), justify="right" if i else "left")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    Screen().print(table)
