"""Draw a schedule: steps from left to right, one row a site, and what each cell says in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from markupsafe import Markup

from ...models.decisions import COMPUTE, IDLE, is_forecast, is_renewal
from ...models.identity import ModelIdentity
from ...plan.schedule import Schedule
from .svg import drawing, element

GUTTER, TOP = 118, 22  # pixels left of the cells and above them
_SKIP = "s"
_WIDTH = 900  # pixels that the steps share, as far as cells stay within the next two
_NARROWEST, _WIDEST = 7, 26
_HEIGHTS = ((24, 16), (60, 11), (10**9, 7))  # most rows -> pixels a row
_LABEL = 10  # pixels that a label needs


@dataclass(frozen=True)
class Grid:
    """data: what the page's script needs to say a cell in words. by_step: (step, what it does) for a table."""

    picture: Markup
    legend: tuple[tuple[str, str], ...]
    data: dict[str, Any]
    by_step: tuple[tuple[str, str], ...]


def draw_grid(schedule: Schedule, model: ModelIdentity) -> Grid:
    """Rows by kind, as `inspect` prints them."""
    rows = [(kind, number, k) for kind, numbers in model.kinds.items() for number, k in enumerate(numbers)]
    height = next(pixels for most, pixels in _HEIGHTS if len(rows) <= most)
    width = min(_WIDEST, max(_NARROWEST, _WIDTH // schedule.steps))
    skips = np.array(schedule.skips)
    codes = [[_code(int(does), bool(skip)) for does, skip in zip(schedule.work[:, k], skips, strict=True)]
             for _, _, k in rows]  # fmt: skip
    children = [_ruler(schedule.steps, width)]
    for line, ((kind, number, k), row) in enumerate(zip(rows, codes, strict=True)):
        top = TOP + line * height
        if number == 0:
            children.append(element("text", kind, x=4, y=top + height * 0.5 + 3, class_="kind"))
            if line:
                children.append(element("path", d=f"M0 {top}H{GUTTER + width * schedule.steps}", class_="rule"))
        if number % max(1, -(-_LABEL // height)) == 0:
            children.append(element("text", str(number), x=GUTTER - 6, y=top + height * 0.5 + 3, class_="number"))
        children += _cells(row, top, width, height, model.site_tokens[k])
    steps, sites = schedule.steps, len(rows)
    picture = drawing(
        children, GUTTER + width * steps + 2, TOP + height * sites + 4,
        f"What each of {sites} sites does at each of {steps} steps; the table below says it by step.",
        class_="grid", tabindex=0, data_grid="schedule",
    )  # fmt: skip
    words = {code: _words(code, 0) for row in codes for code in row if not code.isdigit()}
    data = {
        "left": GUTTER, "top": TOP, "width": width, "height": height, "steps": steps, "words": words,
        "rows": [
            {"name": model.names[k], "tokens": model.site_tokens[k],
             "runs": [[code, len(list(run))] for code, run in groupby(row)]}
            for (_, _, k), row in zip(rows, codes, strict=True)
        ],
    }  # fmt: skip
    return Grid(picture, tuple(_legend(codes)), data, tuple(_by_step(schedule, model)))


def step_class(work: Any, skipped: bool) -> str:
    """How a whole step is drawn: c everything computed, m some of it, r nothing, s the model is not called."""
    if skipped:
        return _SKIP
    if (work == COMPUTE).all():
        return "c"
    return "m" if (work > 0).any() and ((work > 0) & (work <= COMPUTE)).sum() > 1 else "r"


def _code(does: int, skipped: bool) -> str:
    """One letter, f1 or f2, or the number of tokens that are computed."""
    if skipped:
        return _SKIP
    if does == COMPUTE:
        return "c"
    if does == IDLE:
        return "i"
    if is_forecast(does):
        return f"f{-does}"
    return str(does) if is_renewal(does) else "r"


def _words(code: str, tokens: int) -> str:
    if code.isdigit():
        share = f" ({100 * int(code) / tokens:.0f} %)" if tokens else ""
        return f"{code} of {tokens} tokens computed{share}, the others kept"
    return {
        "c": "computed", "r": "reused from the latest step that computed it", "f1": "forecast at order 1",
        "f2": "forecast at order 2", "i": "not needed: what contains it is not computed",
        _SKIP: "whole step skipped, the model is not called",
    }[code]  # fmt: skip


def _cells(row: list[str], top: int, width: int, height: int, tokens: int) -> Iterator[Markup]:
    """One path a class with a rectangle for each run of equal cells; a pruned one is filled as high as its share of the
    tokens. Paths are a third as long as rectangles."""
    paths: dict[str, list[str]] = {}
    first = 0
    for code, run in groupby(row):
        count = len(list(run))
        left, wide = GUTTER + first * width, count * width - 1
        first += count
        if code.isdigit():
            filled = max(2, round((height - 1) * int(code) / max(1, tokens)))
            paths.setdefault("r", []).append(f"M{left} {top}h{wide}v{height - 1}h-{wide}z")
            paths.setdefault("p", []).append(f"M{left} {top + height - 1 - filled}h{wide}v{filled}h-{wide}z")
        elif code != "i":
            paths.setdefault(code, []).append(f"M{left} {top}h{wide}v{height - 1}h-{wide}z")
    for class_ in sorted(paths, key=lambda name: name == "p"):  # over what it fills
        yield element("path", d="".join(paths[class_]), class_=class_)


def _ruler(steps: int, width: int) -> Markup:
    every = next(n for n in (1, 2, 5, 10, 20, 50, 100, 1000, 10**9) if n * width >= 24)
    numbers = (
        element("text", str(step), x=GUTTER + step * width + width / 2, y=14, class_="tick")
        for step in range(0, steps, every)
    )
    return element("g", element("text", "step", x=4, y=14, class_="kind"), *numbers)


def _legend(codes: list[list[str]]) -> Iterator[tuple[str, str]]:
    """(class, words) of what occurs."""
    found = {"p" if code.isdigit() else code for row in codes for code in row}
    for code, words in (
        ("c", "computed"), ("p", "pruned: filled as high as the share of tokens that is computed"), ("r", "reused"),
        ("f1", "forecast, order 1"), ("f2", "forecast, order 2"), (_SKIP, "whole step skipped"),
        ("i", "not needed, inside something that is not computed"),
    ):  # fmt: skip
        if code in found:
            yield code, words


def _by_step(schedule: Schedule, model: ModelIdentity) -> Iterator[tuple[str, str]]:
    for step, (work, skipped) in enumerate(zip(schedule.work, schedule.skips, strict=True)):
        counts: dict[str, int] = {}
        for does in work.tolist():
            code = _code(does, skipped)
            word = "pruned" if code.isdigit() else _words(code, 0).partition(":")[0].partition(" from")[0]
            counts[word] = counts.get(word, 0) + 1
        if len(counts) == 1:
            yield str(step), next(iter(counts)) if skipped else f"everything {next(iter(counts))}"
        else:
            yield str(step), ", ".join(f"{count} {word}" for word, count in counts.items())
