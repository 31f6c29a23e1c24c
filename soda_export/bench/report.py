"""A bench result as Markdown and as a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from .ops import OpTime
from .result import BenchResult, Timing

_LONGEST = 3  # moves of a kind that are named; the JSON has all


def rows_of(result: BenchResult) -> list[tuple[str, str]]:
    """The figures as (what, text)."""
    memory, opening = result.memory_bytes, result.opening
    low, high = result.speedup_interval
    reused = min(result.programs, key=lambda program: program.flops_share)
    rows = [
        ("latency", f"{_ms(result.latency)}, all-compute {_ms(result.baseline_latency)}"),
        ("speedup", f"{result.speedup:.2f}x [{low:.2f}, {high:.2f}]"),
        ("FLOPs ratio", f"{result.flops_ratio:.2f}x"),
        ("realization", f"{result.realization:.3f} (speedup / FLOPs ratio)"),
        ("cheapest step", f"{100 * reused.time_share:.2f} % of an all-compute step's time, "
                          f"{100 * reused.flops_share:.2f} % of its FLOPs"),
        ("outside steps", f"{1e3 * result.outside_steps_s:.2f} ms a request; "
                          f"dispatch {result.dispatch_us_per_step:.1f} us a step"),
        ("error", f"RMSE {result.error.rmse:.4f} ({100 * result.error.relative:.2f} %) against all-compute"),
        ("opening", f"{opening.to_first_step_s:.2f} s to the first step, {opening.to_first_latents_s:.2f} s to "
                    f"latents; all-compute {opening.all_compute_to_first_step_s:.2f} and "
                    f"{opening.all_compute_to_first_latents_s:.2f} s"),
        ("weights", f"{_mb(memory.weights_once)} once; {_mb(memory.weights_resident)} resident: "
                    f"{_mb(memory.weights_private)} private, {_mb(memory.weights_mapped)} mapped"),
        ("arena / activations", f"{_mb(memory.arena)} / {_mb(memory.activations)}; peak {_mb(memory.peak)}"),
    ]  # fmt: skip
    if result.policy is not None:
        decided = result.policy
        times = ", ".join(f"{calls}: {1e3 * seconds:.1f} ms" for calls, seconds in decided.latency_by_calls.items())
        rows.insert(2, ("model calls", f"{decided.calls:.1f} a sample ({decided.least_calls} to {decided.most_calls}), "
                                       f"decided by {decided.name}"))  # fmt: skip
        rows.insert(3, ("latency by calls", f"{times} (calls of all samples together)"))
    if result.text_encoder_s is not None:
        rows.append(("text encoder", f"{1e3 * result.text_encoder_s:.2f} ms a request, not in the latency"))
    if result.decoder_s is not None:
        rows.append(("decoder", f"{1e3 * result.decoder_s:.2f} ms a request, not in the latency"))
    if result.energy_j:
        rows.append(("energy", f"{result.energy_j[0]:.1f} J a generation, all-compute {result.energy_j[1]:.1f} J"))
    given = result.conditions
    threads = f"{given.threads} threads" if given.threads else "threads as the library chooses"
    versions = ", ".join(f"{name} {version}" for name, version in given.versions.items())
    rows.append(("measured on", f"{given.processor}, {given.usable_cores:g} cores, {threads}, load {given.load:g}, "
                                f"{given.date}; {versions}"))  # fmt: skip
    return rows


def program_rows(result: BenchResult) -> list[tuple[str, ...]]:
    """A row a program: file, steps, latency, its share of an all-compute step's time and FLOPs."""
    return [
        (p.file, str(p.steps), _ms(p.latency), f"{100 * p.time_share:.1f} %", f"{100 * p.flops_share:.1f} %")
        for p in result.programs
    ]


PROGRAM_COLUMNS = ("program", "steps", "latency", "of an all-compute step's time", "of its FLOPs")


def op_rows(times: Sequence[OpTime]) -> list[tuple[str, ...]]:
    """A row a kind of operator: name, count, milliseconds, share of the program; below kinds that only move values, the
    longest moves."""
    total = sum(op.seconds for op in times)

    def row(what: str, count: str, seconds: float) -> tuple[str, ...]:
        return what, count, f"{1e3 * seconds:.2f}", f"{100 * seconds / total:.1f} %"

    rows = []
    for op in times:
        rows.append(row(op.op, str(op.count), op.seconds))
        rows += [row(f"  {move.what}", "", move.seconds) for move in op.moves[:_LONGEST]]
    return rows


OP_COLUMNS = ("operator", "count", "ms", "share")


def markdown(result: BenchResult, ops: Mapping[str, Sequence[OpTime]]) -> str:
    """All of it as a page."""
    title = f"{Path(result.bundle).name}: {result.backend}, {result.precision}, batch {result.batch}"
    parts = [f"# {title}\n\nMedians of {result.rounds} rounds; square brackets hold 95 % intervals.\n"]
    parts.append(_table(("", "measured"), rows_of(result)))
    parts.append(_table(PROGRAM_COLUMNS, program_rows(result)))
    parts += [f"## {name}\n\n{_table(OP_COLUMNS, op_rows(times))}" for name, times in ops.items()]
    return "\n".join(parts)


def plot_steps(result: BenchResult, form: str) -> bytes:
    """Latency of every step over the run, beside an all-compute step's. form: png or svg."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.bar(range(len(result.steps_s)), [1e3 * seconds for seconds in result.steps_s], color="#4c78a8")
    axes.axhline(1e3 * result.baseline_step.median, color="#e45756", linewidth=1.2, label="everything computed")
    axes.set_xlabel("step")
    axes.set_ylabel("ms")
    axes.set_title(f"{Path(result.bundle).name}, batch {result.batch}: {result.speedup:.2f}x", fontsize=10)
    axes.legend(frameon=False, loc="upper right")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.01, y=0.12)
    content = io.BytesIO()
    figure.savefig(content, dpi=150, format=form)
    return content.getvalue()


def _ms(timing: Timing) -> str:
    return f"{1e3 * timing.median:.2f} ms [{1e3 * timing.low:.2f}, {1e3 * timing.high:.2f}]"


def _mb(nbytes: int) -> str:
    return f"{nbytes / 1e6:.1f} MB"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
