"""SVG elements as escaped text, and ticks of their axes."""

from __future__ import annotations

import math
from collections.abc import Iterable

from markupsafe import Markup, escape

Value = str | float | int


def element(tag: str, *children: str | Markup, **attributes: Value) -> Markup:
    """`<tag attribute="value">children</tag>`; whatever is not Markup is escaped.

    Underscores of attributes are hyphens, one at the end is dropped: `class_`, `data_words`.
    """
    written = Markup("").join(
        Markup(' {}="{}"').format(name.rstrip("_").replace("_", "-"), _text(value))
        for name, value in attributes.items()
    )
    inside = Markup("").join(escape(child) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(tag), written, inside)


def drawing(children: Iterable[Markup], width: float, height: float, label: str, **attributes: Value) -> Markup:
    """A picture of that many pixels. label: what it shows, for those who cannot see it."""
    return element(
        "svg", *children, xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {_text(width)} {_text(height)}",
        width=width, height=height, role="img", aria_label=label, **attributes,
    )  # fmt: skip


def round_ticks(most: float, about: int = 4) -> list[float]:
    """0 and multiples of 1, 2 or 5 times a power of ten up to `most`, about that many."""
    if most <= 0:
        return [0.0]
    rough = most / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [i * step for i in range(int(most / step + 1e-9) + 1)]


def log_ticks(least: float, most: float) -> list[float]:
    """1, 2 and 5 times powers of ten within the range."""
    powers = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
    return [f * 10.0**p for p in powers for f in (1, 2, 5) if least <= f * 10.0**p <= most]


def _text(value: Value) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
