"""From a sweep's rows to table.csv, sweep.json and sweep.md."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from ..eval.metrics import Interval
from ..files import write_whole
from .rows import RowFile
from .summary import Pair, Summary, shares_near_best
from .unit import Key, SweepRow

_FIGURES = {
    "rmse": ("RMSE", "{:.4f}"), "psnr": ("PSNR, dB", "{:.2f}"), "frechet_real": ("Frechet, real", "{:.3f}"),
    "frechet_reference": ("Frechet, unaccelerated", "{:.3f}"), "accuracy": ("accuracy", "{:.1%}"),
    "accuracy_reference": ("accuracy, unaccelerated", "{:.1%}"), "overlap": ("overlap (IoU)", "{:.3f}"),
    "overlap_reference": ("overlap, unaccelerated", "{:.3f}"), "calls": ("model calls", "{:.1f}"),
}  # fmt: skip


def write_tables(rows: RowFile, summary: Summary, title: str) -> None:
    """Write all three into the sweep's folder. title: of which model and sampler they are."""
    scored = [row for row in rows.rows if not row.error]
    refused = [row for row in rows.rows if row.error]
    near = shares_near_best(rows)
    shares = [{"planner": p, "target_flops_ratio": t, "seeds": s, "share": share} for (p, t, s), share in near.items()]
    document = {"of": title, "rows": scored, "refused": refused, "compared": summary, "within_1_db_of_best": shares}
    write_whole(rows.folder / "sweep.json", msgspec.json.format(msgspec.json.encode(document)) + b"\n")
    write_whole(rows.folder / "table.csv", csv_text(rows.rows).encode())
    write_whole(rows.folder / "sweep.md", markdown(scored, refused, summary, near, title).encode())


def csv_text(rows: Sequence[SweepRow]) -> str:
    """One line a row; an interval is three columns: rmse, rmse_low, rmse_high."""
    file = io.StringIO()
    fields = [name for field in SweepRow.__struct_fields__ for name in _csv_names(field)]
    writer = csv.DictWriter(file, fields, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells: dict[str, Any] = {}
        for field in SweepRow.__struct_fields__:
            value = getattr(row, field)
            values = (value.mean, value.low, value.high) if isinstance(value, Interval) else (value,)
            cells.update(zip(_csv_names(field), values, strict=False))
        writer.writerow(cells)
    return file.getvalue()


def markdown(
    scored: Sequence[SweepRow], refused: Sequence[SweepRow], summary: Summary, near: Mapping[Key, float], title: str
) -> str:
    """Scores by target, comparisons, and refusals apart. near: of summary.shares_near_best."""
    note = "Square brackets hold 95 % intervals."
    if len({row.planner for row in scored}) > 1:
        note += " Near the best: of the samples, those within 1 dB of the best that any planner here drew of them."
    parts = [f"# Planners on {title}", note, _scores(scored, near)]
    if any(not row.within_1_percent for row in scored):
        parts.append("\\* more than 1 % off its target.")
    if any(pair.ratios for pair in summary.pairs):
        parts += [
            f"## {summary.planner} against each other planner",
            f"RMSE of {summary.planner} / RMSE of the other on the same samples; below 1, {summary.planner} is closer "
            "to the unaccelerated samples. A typical sample: the means of the samples' own RMSEs, geometric mean.",
            _comparisons(summary.pairs),
        ]
    if refused:
        lines = dict.fromkeys((f"{row.target_flops_ratio:g}", row.planner, row.error) for row in refused)
        parts += ["## Refused", _table(("target", "planner", "reason"), list(lines))]
    return "\n\n".join(parts) + "\n"


def show(figure: Interval | None, form: str = "{:.3f}") -> str:
    """`0.018 [0.017, 0.019]`, nothing for None."""
    if figure is None:
        return ""
    return f"{form.format(figure.mean)} [{form.format(figure.low)}, {form.format(figure.high)}]"


def _ordered(rows: Sequence[SweepRow]) -> list[SweepRow]:
    """By target, the smallest error first."""
    return sorted(rows, key=lambda row: (row.target_flops_ratio, row.rmse.mean if row.rmse else 0.0))


def _reached(row: SweepRow) -> str:
    """The FLOPs ratio of a row, with a star where it is off its target."""
    return "" if row.flops_ratio is None else f"{row.flops_ratio:.3f}{'' if row.within_1_percent else '*'}"


def _scores(rows: Sequence[SweepRow], near: Mapping[Key, float]) -> str:
    columns: dict[str, Callable[[SweepRow], str]] = {
        "target": lambda row: f"{row.target_flops_ratio:g}", "planner": lambda row: row.planner, "FLOPs ratio": _reached
    }  # fmt: skip
    if len({row.seeds for row in rows}) > 1:
        columns["seeds"] = lambda row: row.seeds
    for name, (title, form) in _FIGURES.items():
        if any(getattr(row, name) is not None for row in rows):
            columns[title] = lambda row, name=name, form=form: show(getattr(row, name), form)  # type: ignore[misc]
    if len({row.planner for row in rows}) > 1:
        columns["near the best"] = lambda row: f"{near[row.key]:.0%}"
    if any(row.latency_s is not None for row in rows):
        columns["ms"] = lambda row: "" if row.latency_s is None else f"{1e3 * row.latency_s:.1f}"
        columns["speedup"] = lambda row: "" if row.speedup is None else f"{row.speedup:.2f}x"
    columns["planning, s"] = lambda row: f"{row.planning_seconds:.2f}"
    return _table(tuple(columns), [[cell(row) for cell in columns.values()] for row in _ordered(rows)])


def _comparisons(pairs: Sequence[Pair]) -> str:
    targets = sorted({target for pair in pairs for target in pair.ratios})
    head = ("other", *(f"at {target:g}" for target in targets), "geometric mean", "typical sample")
    best_last = sorted(pairs, key=lambda pair: pair.geometric_mean.mean if pair.geometric_mean else 0.0)
    lines = [
        (p.other, *(show(p.ratios.get(target)) for target in targets), show(p.geometric_mean), show(p.typical))
        for p in best_last
    ]
    return _table(head, lines)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)


def _csv_names(field: str) -> tuple[str, ...]:
    return (field, f"{field}_low", f"{field}_high") if field in _FIGURES else (field,)
