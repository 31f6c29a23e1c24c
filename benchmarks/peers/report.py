"""From rows to a table, a summary and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .rows import Row, Verdict

# ten colours that stay apart for most colour-blind eyes (Petroff 2021)
_COLOURS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
_MARKERS = {"fp32": "o", "bf16": "s"}
_EXACT = 1e-6  # errors below it are drawn there: a logarithm has no place for a baseline's 0


def table_text(rows: Sequence[Row]) -> str:
    """Markdown: one table for each model, fastest first, then what cannot run."""
    parts = []
    for model in dict.fromkeys(row.model for row in rows):
        mine = [row for row in rows if row.model == model]
        timed = sorted((row for row in mine if row.latency_s is not None), key=lambda row: row.latency_s or 0.0)
        parts += [f"## {model}", "", _HEAD, "|---|---|---|---:|---:|---:|---:|---:|---:|---:|", *map(_line, timed), ""]
        missing = [row for row in mine if row.latency_s is None]
        if missing:
            parts += ["Not measured:", "", *(f"- {_name(row)}: {row.reason}" for row in missing), ""]
    return "\n".join(parts)


def summary_text(compiled: Sequence[Verdict], found: Sequence[Verdict]) -> str:
    """What the table comes to."""
    lines = ["## Against peers", ""]
    for one in compiled:
        lines.append(
            f"- {one.model}, everything computed: {one.bundle} {one.latency_s:.3f} s, {one.peer} "
            f"{one.peer_latency_s:.3f} s: {one.ratio:.2f}x"
        )
    lines += ["", "Each bundle and the fastest peer of equal or lower error:", ""]
    lines += [_VERDICT_HEAD, "|---|---|---:|---:|---|---:|---:|---:|"]
    for one in found:
        lines.append(
            f"| {one.model} | {one.bundle.replace(' | ', ', ')} | {one.latency_s:.3f} | {one.judged_rmse:.4g} | "
            f"{one.peer.replace(' | ', ', ')} | {one.peer_latency_s:.3f} | {one.peer_rmse:.4g} | {one.ratio:.2f}x |"
        )
    return "\n".join([*lines, ""])


_HEAD = (
    "| system | setting | precision | latency, s | 95 % | FLOPs ratio | realization | RMSE | judged RMSE | peak, MB |"
)
_VERDICT_HEAD = "| model | bundle | s | RMSE | fastest peer | s | RMSE | faster |"


def _line(row: Row) -> str:
    interval = f"{row.latency_low_s:.3f}..{row.latency_high_s:.3f}"
    peak = "" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:.0f}"
    cells = (
        row.system, row.setting, row.precision, f"{row.latency_s:.3f}", interval, _number(row.flops_ratio, ".2f"),
        _number(row.realization, ".2f"), _number(row.rmse, ".4g"), _number(row.judged_rmse, ".4g"), peak,
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _name(row: Row) -> str:
    return ", ".join(part for part in (row.system, row.setting, row.precision) if part)


def plot_rows(rows: Sequence[Row], path: Path) -> None:
    """Write a PNG: error against latency, one panel a model; a system's settings are joined by a line."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    drawn = [row for row in rows if row.latency_s is not None and row.judged_rmse is not None]
    models = list(dict.fromkeys(row.model for row in drawn))
    if not models:
        return
    figure, panels = plt.subplots(
        1, len(models), figsize=(6.5 * len(models) + 3, 5.5), squeeze=False, layout="constrained"
    )
    systems = [name for name in dict.fromkeys(row.system for row in drawn) if not _is_ours(name)]
    for panel, model in zip(panels[0], models, strict=True):
        _draw(panel, [row for row in drawn if row.model == model], systems)
        panel.set_title(model)
    panels[0, 0].set_ylabel("RMSE against the unaccelerated model in float32")
    labels: dict[str, Any] = {}
    for panel in panels[0]:
        handles, names = panel.get_legend_handles_labels()
        labels = {**dict(zip(names, handles, strict=True)), **labels}
    figure.legend(labels.values(), labels.keys(), loc="outside right upper", frameon=False, fontsize="small")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _draw(panel: Any, rows: Sequence[Row], systems: Sequence[str]) -> None:
    for system, precision in dict.fromkeys((row.system, row.precision) for row in rows):
        mine = sorted(
            (row for row in rows if (row.system, row.precision) == (system, precision)),
            key=lambda row: row.latency_s or 0.0,
        )
        ours = _is_ours(system)
        colour = "black" if ours else _COLOURS[systems.index(system) % len(_COLOURS)]
        filled = colour if "OpenVINO" not in system else "white"
        panel.plot(
            [row.latency_s for row in mine], [max(row.judged_rmse or 0.0, _EXACT) for row in mine],
            color=colour, marker=_MARKERS.get(precision, "^"), markerfacecolor=filled, markersize=5,
            linestyle="-" if precision == "fp32" else "--", linewidth=2 if ours else 1, zorder=5 if ours else 3,
            label=f"{system}, {precision}",
        )  # fmt: skip
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xlabel("latency, s")
    panel.grid(True, alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)


def _is_ours(system: str) -> bool:
    return system.startswith("soda-export")
