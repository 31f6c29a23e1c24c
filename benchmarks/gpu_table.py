"""The rows of benchmarks/gpu.py as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_COLUMNS = (
    "system", "batch", "all compute ms", "accelerated ms", "speedup", "realization", "dispatch us a step",
    "weights once / resident MB", "arena MB", "activations MB", "peak MB",
)  # fmt: skip
_NAMES = {"eager": "diffusers eager", "compiled": "diffusers, torch.compile", "reference": "eager reference"}


def table_of(rows: Sequence[Mapping[str, Any]], machine: Mapping[str, str]) -> str:
    """A table for each model and FLOPs ratio; rows that compute everything stand in all tables of their model."""
    lines = [f"# {machine['device']}, torch {machine['torch']}", ""]
    lines += ["Medians from request to latents. Realization = speedup / FLOPs ratio. Memory is the device's.", ""]
    for model in dict.fromkeys(row["model"] for row in rows):
        ratios = dict.fromkeys(row["ratio"] for row in rows if row["model"] == model and row["ratio"]) or {0.0: None}
        for ratio in sorted(ratios):
            shown = [row for row in rows if row["model"] == model and row["ratio"] in (0.0, ratio)]
            steps = next((f", {row['steps']} steps" for row in shown if "steps" in row), "")
            lines += [f"## {model}{steps}, FLOPs ratio {ratio:g}", ""]
            lines += [f"| {' | '.join(_COLUMNS)} |", f"|{'---|' * len(_COLUMNS)}"]
            lines += [_line(row) for row in shown]
            refused = [f"- {_name(row)}, batch {row['batch']}: {row['why_not']}" for row in shown if "why_not" in row]
            lines += ["", *(["Not measured:", "", *refused, ""] if refused else [])]
    return "\n".join(lines).rstrip() + "\n"


def _name(row: Mapping[str, Any]) -> str:
    graph = f", CUDA graph {row['graph']}" if row["graph"] else ""
    return f"{_NAMES.get(row['system'], row['system'])} {row['precision']}{graph}"


def _line(row: Mapping[str, Any]) -> str:
    if "why_not" in row:
        return f"| {_name(row)} | {row['batch']} |{' - |' * (len(_COLUMNS) - 2)}"
    memory = row.get("memory_bytes", {"peak": row["peak_bytes"]} if "peak_bytes" in row else {})
    shown = (("baseline_latency_s", 1e3, 2), ("latency_s", 1e3, 2), ("speedup", 1, 3), ("realization", 1, 3))
    figures = [
        *(_show(row.get(name), factor, digits) for name, factor, digits in (*shown, ("dispatch_us_per_step", 1, 1))),
        f"{_mb(memory, 'weights_once')} / {_mb(memory, 'weights_resident')}" if "weights_once" in memory else "",
        *(_mb(memory, name) for name in ("arena", "activations", "peak")),
    ]  # fmt: skip
    return f"| {_name(row)} | {row['batch']} | {' | '.join(figures)} |"


def _show(value: float | None, factor: float, digits: int) -> str:
    return "" if value is None else f"{factor * value:.{digits}f}"


def _mb(memory: Mapping[str, int], name: str) -> str:
    return _show(memory.get(name), 1e-6, 1)
