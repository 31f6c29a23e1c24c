"""Sensitivity maps as pictures: how much a site's output changes between steps, one pixel a step and site."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from PIL import Image

from ...plan.sensitivity import SensitivityMap
from .svg import drawing, element

_INTERVALS = (1, 2, 4)
_DECADES = 2.5  # of errors that the colours tell apart
_UNKNOWN = (128, 128, 128, 0)
_SIDE = 900  # pixels that the steps share
_ROW, _MOST_HEIGHT, _LEAST_HEIGHT = 8, 560, 60
_GUTTER, _TOP = 118, 22


@dataclass(frozen=True)
class Heat:
    """One interval's picture."""

    title: str
    picture: Markup


def draw_map(sensitivity: SensitivityMap) -> tuple[list[Heat], str]:
    """A picture an interval, on one logarithmic scale, and what the scale's ends are."""
    kinds = sensitivity.info.model.kinds
    order = [k for numbers in kinds.values() for k in numbers]
    errors = sensitivity.reuse_error[:, order].astype(np.float64)  # [S, K, I]
    chosen = [i for i in _INTERVALS if np.isfinite(errors[:, :, i - 1]).any()]
    known = errors[:, :, [i - 1 for i in chosen]]
    positive = known[np.isfinite(known) & (known > 0)]
    if not positive.size:
        return [], ""
    most = float(positive.max())
    least = most / 10**_DECADES
    heats = [_draw(errors[:, :, i - 1], i, least, most, kinds) for i in chosen]
    scale = f"dark: {least:.2g} or less, bright: {most:.2g}, on a logarithmic scale"
    return heats, scale


def _draw(
    errors: np.ndarray, interval: int, least: float, most: float, kinds: dict[str, tuple[int, ...]]
) -> Heat:  # errors: [S, K]
    from matplotlib import colormaps

    steps, sites = errors.shape
    with np.errstate(divide="ignore", invalid="ignore"):
        level = np.clip(np.log10(errors / least) / np.log10(most / least), 0.0, 1.0)
    pixels = (colormaps["cividis"](np.nan_to_num(level)) * 255).astype(np.uint8)
    pixels[~np.isfinite(errors)] = _UNKNOWN
    content = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 0, 2)).save(content, "PNG")
    width = steps * max(4, min(26, _SIDE // steps))
    height = min(_MOST_HEIGHT, max(_LEAST_HEIGHT, _ROW * sites))
    title = f"interval {interval}: reused {interval} step{'s' * (interval > 1)} later"
    children = [element("image", href=png_url(content.getvalue()), x=_GUTTER, y=_TOP, width=width, height=height,
                        preserveAspectRatio="none", class_="pixels")]  # fmt: skip
    row = 0
    for kind, numbers in kinds.items():
        children.append(element("text", kind, x=4, y=_TOP + height * (row + 0.5) / sites + 3, class_="kind"))
        row += len(numbers)
    every = next(n for n in (1, 2, 5, 10, 20, 50, 100, 1000, 10**9) if n * width / steps >= 24)
    children += [
        element("text", str(t), x=_GUTTER + (t + 0.5) * width / steps, y=14, class_="tick")
        for t in range(0, steps, every)
    ]
    worst = np.unravel_index(np.nanargmax(errors), errors.shape)
    words = f"Reuse errors at {title}; largest at step {worst[0]}, {float(np.nanmax(errors)):.3g}."
    return Heat(title, drawing(children, _GUTTER + width + 2, _TOP + height + 4, words, class_="heat"))


def png_url(content: bytes) -> str:
    """A PNG as an address that needs no network."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
