"""From a sweep's rows to a picture: error against FLOPs ratio, and against latency where it was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files import replacing
from .rows import RowFile
from .summary import Point, pool_points

# ten colours that stay apart for most colour-blind eyes (Petroff 2021), each in two dashes
_COLOURS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
_MARKERS = "osD^vPX<>*"


def plot_sweep(rows: RowFile, main: str, path: Path) -> None:
    """Write a PNG, one line a planner; `main` is drawn in black. Nothing is written where every planner refused."""
    points = pool_points(rows)
    if not points:
        return
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    timed = [point for point in points if point.latency_s is not None]
    figure, panels = plt.subplots(
        1, 2 if timed else 1, figsize=(12 if timed else 7.5, 4.8), squeeze=False, layout="constrained"
    )
    styles = _styles(points, main)
    _draw(panels[0, 0], points, styles, lambda point: point.flops_ratio)
    panels[0, 0].set_xlabel("FLOPs ratio (computing everything / plan)")
    if timed:
        _draw(panels[0, 1], timed, styles, lambda point: 1e3 * (point.latency_s or 0.0))
        panels[0, 1].set_xlabel("latency, ms")
    panels[0, 0].set_ylabel("RMSE against unaccelerated samples (bars: 95 %)")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, title="planner, worst first")
    with replacing(path) as scratch:
        figure.savefig(scratch, dpi=150, format="png")
    plt.close(figure)


def _draw(panel: Any, points: Sequence[Point], styles: dict[str, dict[str, Any]], x: Callable[[Point], float]) -> None:
    from matplotlib.ticker import LogLocator

    for planner, style in styles.items():
        mine = sorted((point for point in points if point.planner == planner), key=x)
        middle = np.array([point.rmse.mean for point in mine])
        below = middle - [point.rmse.low for point in mine]
        above = np.array([point.rmse.high for point in mine]) - middle
        panel.errorbar(
            [x(point) for point in mine], middle, yerr=np.maximum(0.0, [below, above]), label=planner, capsize=2,
            elinewidth=0.8, markersize=4.5, **style,
        )  # fmt: skip
    panel.set_yscale("log")
    panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    panel.yaxis.set_major_formatter("{x:g}")
    panel.yaxis.set_minor_formatter("")
    panel.grid(True, alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)


def _styles(points: Sequence[Point], main: str) -> dict[str, dict[str, Any]]:
    """How each planner is drawn; those with the largest errors first, so that the legend is in the lines' order."""
    names = sorted({point.planner for point in points})
    errors = {name: np.mean([np.log(max(p.rmse.mean, 1e-12)) for p in points if p.planner == name]) for name in names}
    styles: dict[str, dict[str, Any]] = {}
    for name in sorted(names, key=lambda name: -errors[name]):
        number = [other for other in names if other != main].index(name) if name != main else 0
        colour = "black" if name == main else _COLOURS[number % len(_COLOURS)]
        again = number // len(_COLOURS)
        marker = _MARKERS[(number + 3 * again) % len(_MARKERS)]
        styles[name] = {
            "color": colour, "linestyle": "--" if again else "-", "marker": marker,
            "linewidth": 2.2 if name == main else 1.3, "zorder": 5 if name == main else 3,
        }  # fmt: skip
    return styles
