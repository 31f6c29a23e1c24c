"""From costs at growing sizes to exponents, a table and a chart.

    python benchmarks/growth_table.py docs/results/growth.json    # prints the table, draws growth.png beside the file
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_COLOURS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
_DASHES = ("-", "--", ":")
_FLAT = 1.2  # what grows by less over all sizes counts as constant
_STEEP = 1.15  # exponents above this are in bold
MEASURES = {"cpu_s": ("CPU seconds", 1.0, 0.05), "peak_bytes": ("peak MB", 1e-6, 8e6)}
"""Measure -> its name in tables, its unit, and growth that is no more than noise."""
Points = Mapping[str, Sequence[Mapping[str, Any]]]
"""Axis -> points in rising order, as growth.py records them."""


def exponent(sizes: Sequence[float], costs: Sequence[float], noise: float) -> float | None:
    """e of cost = a + b size^e, a and b not negative, with the least relative error over all points: the constant a,
    which rules where models are small, is not in it. None where the cost does not grow: by less than `noise`, or a
    fifth, over all points."""
    if costs[-1] - costs[0] < max(noise, (_FLAT - 1) * costs[0]):
        return None
    known, weights = np.array(costs), 1.0 / np.maximum(costs, 1e-12)
    best = (np.inf, 0.0)
    for e in np.arange(0.1, 4.0, 0.01):
        powers = (np.array(sizes) / sizes[-1]) ** e
        columns = np.column_stack([np.ones(len(costs)), powers]) * weights[:, None]
        (constant, factor), *_ = np.linalg.lstsq(columns, known * weights, rcond=None)
        if constant < 0:
            constant, factor = 0.0, (powers * weights).sum() / ((powers * weights) ** 2).sum()
        error = float((((constant + factor * powers) * weights - 1.0) ** 2).sum())
        best = min(best, (error, float(e)))
    return best[1]


def stages_of(points: Points) -> list[str]:
    """All that were measured, in order."""
    return list(dict.fromkeys(stage for of_axis in points.values() for point in of_axis for stage in point["stages"]))


def series(points: Sequence[Mapping[str, Any]], axis: str, stage: str, what: str) -> tuple[list[float], list[float]]:
    """Sizes, and what a stage costs there."""
    measured = [point for point in points if stage in point["stages"]]
    return [point[axis] for point in measured], [point["stages"][stage][what] for point in measured]


def table(points: Points) -> str:
    """Markdown: of each stage and axis the cost at the first and the last point and the exponent."""
    lines = []
    for what, (name, unit, noise) in MEASURES.items():
        ranges = [f"{axis} {of_axis[0][axis]} to {of_axis[-1][axis]}" for axis, of_axis in points.items()]
        lines += [f"| {name} | {' | '.join(ranges)} |", f"|---|{'---|' * len(points)}"]
        for stage in stages_of(points):
            cells = [_cell(*series(of_axis, axis, stage, what), unit, noise) for axis, of_axis in points.items()]
            lines.append(f"| {stage} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _cell(sizes: Sequence[float], costs: Sequence[float], unit: float, noise: float) -> str:
    if len(sizes) < 3:
        return ""
    found = exponent(sizes, costs, noise)
    grows = "flat" if found is None else f"**{found:.1f}**" if found > _STEEP else f"{found:.1f}"
    return f"{_figure(unit * costs[0])} to {_figure(unit * costs[-1])}: {grows}"


def _figure(value: float) -> str:
    return f"{value:.2g}" if value < 99.5 else f"{value:.0f}"


def draw(points: Points, path: Path) -> None:
    """A PNG: CPU seconds above, peak memory below, a column an axis, all scales logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    stages = stages_of(points)
    figure, panels = plt.subplots(
        2, len(points), figsize=(3.6 * len(points) + 2, 8), squeeze=False, sharey="row", layout="constrained"
    )
    lines: dict[str, Any] = {}
    for row, (what, (name, unit, noise)) in enumerate(MEASURES.items()):
        for column, (axis, of_axis) in enumerate(points.items()):
            panel = panels[row, column]
            for number, stage in enumerate(stages):
                sizes, costs = series(of_axis, axis, stage, what)
                (line,) = panel.plot(
                    sizes, unit * np.maximum(costs, noise / 50), marker="o", markersize=3,
                    color=_COLOURS[number % len(_COLOURS)], linestyle=_DASHES[number // len(_COLOURS)],
                )  # fmt: skip
                lines[stage] = line
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
            panel.set_xticks([point[axis] for point in of_axis])
            panel.xaxis.set_major_formatter("{x:g}")
            panel.grid(True, alpha=0.3)
            panel.spines[["top", "right"]].set_visible(False)
            panel.set_xlabel(axis)
        panels[row, 0].set_ylabel(name)
    figure.legend([lines[stage] for stage in stages], stages, loc="outside right upper", frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path, help="what growth.py wrote")
    record = parser.parse_args().record
    if not record.is_file():
        parser.error(f"{record}: no such file; growth.py --out writes one")
    points = json.loads(record.read_text())["axes"]
    print(table(points))
    draw(points, record.with_suffix(".png"))


if __name__ == "__main__":
    main()
