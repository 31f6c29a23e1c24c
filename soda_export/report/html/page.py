"""What a report has, and its page: one file of HTML with everything in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from .grid import Grid
from .heat import Heat

_TEMPLATES = files(__package__) / "templates"


@dataclass(frozen=True)
class Figure:
    """A figure that decides, in large type. note: how it was found."""

    value: str
    label: str
    note: str = ""


@dataclass(frozen=True)
class Table:
    """head may be empty: then the first column names the rows."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Chart:
    """A picture, what it says as a table, and a legend of (class, words) or (mark, words)."""

    picture: Markup
    table: Table
    legend: tuple[tuple[str | Markup, str], ...] = ()
    text: str = ""


@dataclass(frozen=True)
class Sample:
    """Three pictures at equal noise, as addresses: everything computed, accelerated, and how much they differ."""

    title: str
    full: str
    fast: str
    difference: str
    words: str


@dataclass(frozen=True)
class Samples:
    """tiny: pictures whose pixels are shown as squares."""

    samples: tuple[Sample, ...]
    text: str
    tiny: bool


@dataclass(frozen=True)
class Report:
    """What the page shows, in its order; what is None or empty is left out, and `missing` says how to get it."""

    title: str
    subtitle: str
    headline: tuple[Figure, ...] = ()
    facts: Table | None = None
    samples: Samples | None = None
    sweep: tuple[tuple[str, Chart], ...] = ()
    comparisons: Table | None = None
    schedule: Grid | None = None
    decisions: Chart | None = None
    latency: Chart | None = None
    memory: Chart | None = None
    heats: tuple[Heat, ...] = ()
    heat_scale: str = ""
    machine: Table | None = None
    missing: tuple[str, ...] = field(default=())


def render_report(report: Report) -> bytes:
    """The page in UTF-8. Text of the report is escaped; its pictures are Markup, made of escaped text."""
    data: dict[str, Any] = {"schedule": report.schedule.data} if report.schedule else {}
    page: str = _environment().get_template("page.html").render(
        report=report, data=data, style=Markup(_read("style.css")), script=Markup(_read("script.js"))
    )
    return page.encode("utf-8", "replace")


@cache
def _environment() -> Environment:
    return Environment(
        loader=FunctionLoader(_read), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def _read(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")
