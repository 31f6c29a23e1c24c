"""soda-export bench"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from ..bench import BenchOptions, bench_bundle
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

    Parameters
    ----------
    bundle
        Bundle folder.
    ops
        Also show where each program's time goes, by kind of operator (ort and openvino, on cpu).
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
    with progress_bar() as progress:
        result = bench_bundle(Path(bundle), options, lambda done, total: progress("bench", done, total))
        times: dict[str, tuple[OpTime, ...]] = profile_ops(Path(bundle), options) if ops else {}
    if plot is not None:
        write_whole(plot, plot_steps(result, plot.suffix[1:]))
    if md is not None:
        write_whole(md, markdown(result, times).encode())
    if json:
        print_json({**msgspec.structs.asdict(result), **({"ops": times} if ops else {})})
        return
    title = f"{bundle}: {result.backend}, {result.precision}, batch {result.batch}, medians of {result.rounds}"
    print_table(title, rows_of(result))
    print_columns("step programs", PROGRAM_COLUMNS, program_rows(result))
    for name, program in times.items():
        print_columns(name, OP_COLUMNS, op_rows(program))
