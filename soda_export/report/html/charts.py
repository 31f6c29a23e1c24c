"""Bars of steps, bars of bytes, and points with intervals, as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from .svg import drawing, element, log_ticks, round_ticks

_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 12, 40
_MARKERS = 6  # shapes of points
SERIES = 8  # colours of series that the style sheet has


@dataclass(frozen=True)
class Bar:
    """class_: as in the style sheet. words: what it says when it is pointed at."""

    value: float
    class_: str
    words: str


@dataclass(frozen=True)
class Mark:
    """A point with its interval in y, all above 0."""

    x: float
    y: float
    low: float
    high: float
    words: str


def draw_bars(bars: Sequence[Bar], line: float, line_words: str, unit: str, label: str) -> Markup:
    """One bar a step from left to right, and a dashed line at the height `line`."""
    wide = min(26, max(4, 900 // max(1, len(bars))))
    width, height = _LEFT + wide * len(bars) + _RIGHT, 240
    most = max([line, *(bar.value for bar in bars)]) or 1.0
    scale = (height - _TOP - _BOTTOM) / (most * 1.05)
    base = height - _BOTTOM
    children = [_level(tick, base - tick * scale, width) for tick in round_ticks(most)]
    for i, bar in enumerate(bars):
        tall = max(1.0, bar.value * scale)
        children.append(element(
            "rect", x=_LEFT + i * wide, y=base - tall, width=wide - 1, height=tall, class_=bar.class_,
            data_words=bar.words,
        ))  # fmt: skip
    children.append(element(
        "path", d=f"M{_LEFT} {base - line * scale:.1f}H{width - _RIGHT}", class_="line", data_words=line_words
    ))  # fmt: skip
    every = next(n for n in (1, 2, 5, 10, 20, 50, 100, 1000, 10**9) if n * wide >= 24)
    children += [
        element("text", str(i), x=_LEFT + (i + 0.5) * wide, y=base + 15, class_="tick")
        for i in range(0, len(bars), every)
    ]
    children += [
        element("text", "step", x=(_LEFT + width) / 2, y=height - 6, class_="tick"),
        element("text", unit, x=4, y=_TOP + 8, class_="kind"),
    ]
    return drawing(children, width, height, label)


def draw_parts(parts: Sequence[tuple[str, float]], show: str, label: str) -> Markup:
    """One bar a part, from top to bottom, with its name and size beside it. show: format of a size."""
    width, row, name = 360, 26, 140  # as wide as a phone shows
    most = max((size for _, size in parts), default=0.0) or 1.0
    children = []
    for i, (title, size) in enumerate(parts):
        top, wide = i * row + 4, max(1.0, (width - name - 74) * size / most)
        children += [
            element("text", title, x=name - 8, y=top + 14, class_="number"),
            element("rect", x=name, y=top, width=wide, height=row - 8, class_=f"series{i % SERIES}"),
            element("text", show.format(size), x=name + wide + 6, y=top + 14, class_="label"),
        ]
    return drawing(children, width, row * len(parts) + 4, label)


def draw_points(
    series: Sequence[tuple[str, Sequence[Mark]]], x_title: str, y_title: str, label: str, main: str = ""
) -> Markup:
    """A line and its points a series, both axes logarithmic; `main` stands out."""
    width, height, left = 760, 420, 70
    marks = [mark for _, line in series for mark in line]
    x_least, x_most = _padded(min(m.x for m in marks), max(m.x for m in marks), 1.04)
    y_least, y_most = _padded(min(m.low for m in marks), max(m.high for m in marks), 1.15)

    def at(x: float, y: float) -> tuple[float, float]:
        across = math.log(x / x_least) / math.log(x_most / x_least)
        up = math.log(y / y_least) / math.log(y_most / y_least)
        return left + across * (width - left - _RIGHT), height - _BOTTOM - up * (height - _TOP - _BOTTOM)

    children = [_level(tick, at(x_least, tick)[1], width, left) for tick in log_ticks(y_least, y_most)]
    for tick in _x_ticks(x_least, x_most):
        children.append(element("text", f"{tick:g}", x=at(tick, y_least)[0], y=height - _BOTTOM + 16, class_="tick"))
    children += [
        element("text", x_title, x=(left + width) / 2, y=height - 6, class_="tick"),
        element("text", y_title, x=left + 6, y=_TOP + 10, class_="label"),
    ]
    for i, (name, line) in enumerate(series):
        places = [at(mark.x, mark.y) for mark in line]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        strokes = [element("path", d=path, class_="join")]
        for mark, (x, y) in zip(line, places, strict=True):
            bottom, top = at(mark.x, mark.low)[1], at(mark.x, mark.high)[1]
            strokes.append(element("path", d=f"M{x:.1f} {bottom:.1f}V{top:.1f}M{x - 3:.1f} {bottom:.1f}h6"
                                             f"M{x - 3:.1f} {top:.1f}h6", class_="whisker"))  # fmt: skip
            strokes.append(element("path", d=_marker(i, x, y), class_="mark", data_words=mark.words))
        heavy = " main" if name == main else ""
        children.append(element("g", *strokes, class_=f"line{i % SERIES}{heavy}"))
    return drawing(children, width, height, label)


def draw_marker(index: int) -> Markup:
    """A series' mark, for a legend."""
    mark = element("path", d=_marker(index, 8, 8), class_="mark")
    return element("svg", element("g", mark, class_=f"line{index % SERIES}"), width=16, height=16, aria_hidden="true")


def _level(value: float, y: float, width: float, left: float = _LEFT) -> Markup:
    text = element("text", f"{value:g}", x=left - 6, y=y + 4, class_="number")
    return element("g", element("path", d=f"M{left} {y:.1f}H{width - _RIGHT}", class_="rule"), text)


def _padded(least: float, most: float, factor: float) -> tuple[float, float]:
    return least / factor, most * factor


def _x_ticks(least: float, most: float) -> list[float]:
    ticks = log_ticks(least, most)
    if len(ticks) >= 3:
        return ticks
    step = next(s for s in (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 1000, 10**6) if (most - least) / s <= 8)
    return [i * step for i in range(math.ceil(least / step), int(most / step) + 1)]


def _marker(index: int, x: float, y: float) -> str:
    shapes = (
        f"M{x - 4:.1f} {y:.1f}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0Z",
        f"M{x - 4:.1f} {y - 4:.1f}h8v8h-8Z",
        f"M{x:.1f} {y - 5:.1f}l5 9h-10Z",
        f"M{x:.1f} {y - 6:.1f}l5 6l-5 6l-5 -6Z",
        f"M{x:.1f} {y + 5:.1f}l5 -9h-10Z",
        f"M{x - 5:.1f} {y - 1.5:.1f}h3.5v-3.5h3v3.5h3.5v3h-3.5v3.5h-3v-3.5h-3.5Z",
    )
    assert len(shapes) == _MARKERS
    return shapes[index % _MARKERS]
