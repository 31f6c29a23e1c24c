"""soda-export bench"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter
from soda_runtime.checks import open_manifest
from soda_runtime.sizes import read_size_list

from ..bench import BenchOptions, BenchResult, bench_bundle
from ..bench.ops import OpTime, profile_ops
from ..bench.report import (
    OP_COLUMNS,
    PROGRAM_COLUMNS,
    markdown,
    op_rows,
    plot_steps,
    program_rows,
    rows_of,
)
from ..errors import UsageError
from ..files import check_out, write_whole
from .terminal import print_columns, print_json, print_table, progress_bar

Measured = tuple[BenchResult, dict[str, tuple[OpTime, ...]]]


def bench(
    bundle: str,
    /,
    *,
    options: Annotated[BenchOptions, Parameter(name="*")] = BenchOptions(),
    ops: bool = False,
    plot: Path | None = None,
    md: Path | None = None,
    json: bool = False,
) -> None:
    """Measure latency, memory and error of a bundle against computing everything on the same backend.

    Both are played in turn. Opening and memory are measured in fresh processes.

    Examples:

        soda-export bench engines/digits-b17-ort

        soda-export bench engines/digits-b17-ort --batch 1 --rounds 15 --json

        soda-export bench engines/digits-b17-ort --ops --plot steps.png --md bench.md

        soda-export bench engines/pixart-b8-ort --size 512x768

    Parameters
    ----------
    bundle
        Bundle folder.
    ops
        Also show where each program's time goes, by kind of operator, and what the longest copies and reorders move
        (ort and openvino, on cpu).
    plot
        Draw the latency of every step into this .png or .svg file.
    md
        Write everything as a Markdown page into this file.
    json
        Print the result as JSON.
    """
    if plot is not None and plot.suffix not in (".png", ".svg"):
        raise UsageError(f"--plot {plot}: must end in .png or .svg")
    if plot is not None:
        check_out(plot, f"a {plot.suffix} picture")
    if md is not None:
        check_out(md, "a page of soda-export bench")
    sizes = (options.size,) if options.size else bundle_sizes(Path(bundle))
    if len(sizes) > 1 and (plot is not None or md is not None):
        raise UsageError(f"{'--plot' if plot else '--md'}: the bundle has {', '.join(sizes)}; say which with --size")
    measured: list[Measured] = []
    with progress_bar() as progress:
        for size in sizes:
            asked = replace(options, size=size)
            result = bench_bundle(Path(bundle), asked, lambda done, total: progress("bench", done, total))
            measured.append((result, profile_ops(Path(bundle), asked) if ops else {}))
    result, times = measured[0]
    if plot is not None:
        write_whole(plot, plot_steps(result, plot.suffix[1:]))
    if md is not None:
        write_whole(md, markdown(result, times).encode())
    if json:
        rows = [{**msgspec.structs.asdict(result), **({"ops": times} if ops else {})} for result, times in measured]
        print_json(rows if len(rows) > 1 else rows[0])
        return
    for result, times in measured:
        what = [result.size, result.backend, result.precision, f"batch {result.batch}", f"medians of {result.rounds}"]
        print_table(f"{bundle}: {', '.join(word for word in what if word)}", rows_of(result))
        print_columns("step programs", PROGRAM_COLUMNS, program_rows(result))
        for name, program in times.items():
            print_columns(name, OP_COLUMNS, op_rows(program))


def bundle_sizes(folder: Path) -> tuple[str, ...]:
    """The sizes of a bundle of several, as options name them; ("",) of one."""
    entries = read_size_list(folder, open_manifest(folder)) if folder.is_dir() else ()
    return tuple(f"{entry.height}x{entry.width}" for entry in entries) if len(entries) > 1 else ("",)
