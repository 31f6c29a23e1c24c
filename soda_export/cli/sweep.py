"""soda-export sweep"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from ..models.request import ModelRequest
from ..options import ProfileOptions, SamplerRequest
from ..sweep.options import SweepOptions, WorkerOptions
from .terminal import Screen, print_json, printable, progress_bar, say, start_logging

if TYPE_CHECKING:
    from ..sweep.rows import RowFile
    from ..sweep.summary import Summary


def sweep(
    *,
    model: Annotated[ModelRequest, Parameter(name="*", group="Model")],
    options: Annotated[SweepOptions, Parameter(name="*", group="Sweep")],
    workers: Annotated[WorkerOptions, Parameter(name="*", group="Workers")] = WorkerOptions(),
    map: Path | None = None,
    sampler: Annotated[SamplerRequest, Parameter(name="*", group="Sampling")] = SamplerRequest(),
    profiling: Annotated[ProfileOptions, Parameter(name="*", group="Profiling")] = ProfileOptions(),
    json: bool = False,
) -> None:
    """Compare planners at several FLOPs ratios on one model: rows, tables and a plot of error against cost.

    Each row is kept as soon as it is there: a sweep that was stopped goes on where it was. --out gets rows.jsonl,
    table.csv, sweep.json, sweep.md, pareto.png and the errors of every sample.

    Examples:

        soda-export sweep --model digits --planners uniform,fora,soda --flops-ratios 1.5,1.9,2.2 --out sweeps/digits

        soda-export sweep --model digits --planners soda,toca --flops-ratios 2 --seeds 1000000:1000500 --out s --bench

        soda-export sweep --model pixart --planners soda,duca --flops-ratios 1.5,2 --out s --workers 4 --ray local

    Parameters
    ----------
    map
        Sensitivity map of `soda-export profile`, or `uniform` where no planner needs one; profiles if not given.
    json
        Print rows and comparisons as JSON.
    """
    from ..api.planning import UNIFORM, given_map, open_workbench
    from ..sweep.rows import check_folder  # with torch, which help pages do without
    from ..sweep.run import check_workers
    from ..sweep.sweep import make_setting, make_units, run_sweep

    start_logging()
    check_folder(options.out)
    sensitivity = given_map(map)
    units = make_units(options, profiling.seed if sensitivity is None else sensitivity.info.seed)
    check_workers(units, workers)
    with progress_bar() as progress:
        bench = open_workbench(model, sampler, progress, sensitivity)
        measured = sensitivity
        if map is not None and str(map) == UNIFORM:
            measured = bench.uniform_map()
        elif measured is None:
            measured = bench.profile(profiling)
        setting = make_setting(model, bench, measured, profiling, options)
        logging.getLogger("soda_export").setLevel(logging.WARNING)  # the units' own lines tell enough
        logging.getLogger("soda_export.sweep").setLevel(logging.INFO)
        rows, summary = run_sweep(setting, units, options, workers, progress)
    if json:
        refused = [row for row in rows.rows if row.error]
        scored = [row for row in rows.rows if not row.error]
        print_json(msgspec.to_builtins({"rows": scored, "refused": refused, "compared": summary}, str_keys=True))
    else:
        _print_points(rows, summary)
        say(f"{options.out}: table.csv, sweep.json, sweep.md, pareto.png")


def _print_points(rows: RowFile, summary: Summary) -> None:
    """One line a planner and target, over all seeds; the files have the other figures."""
    from ..sweep.summary import pool_points
    from ..sweep.table import show

    table = Table(title="RMSE against unaccelerated samples, 95 % intervals", title_justify="left")
    for head in ("target", "planner", "FLOPs ratio", "RMSE", "latency"):
        table.add_column(head)
    for point in sorted(pool_points(rows), key=lambda point: (point.target_flops_ratio, point.rmse.mean)):
        latency = "" if point.latency_s is None else f"{1e3 * point.latency_s:.1f} ms"
        error = Text(show(point.rmse, "{:.4f}"))
        table.add_row(f"{point.target_flops_ratio:g}", point.planner, f"{point.flops_ratio:.3f}", error, latency)
    console = Screen()
    console.print(table)
    for pair in summary.pairs:
        if pair.geometric_mean is not None:
            words = f"RMSE of {summary.planner} / {pair.other}: {show(pair.geometric_mean)} in the geometric mean"
            console.print(Text(printable(words)))
    for target, planner, reason in dict.fromkeys((r.target_flops_ratio, r.planner, r.error) for r in rows.rows):
        if reason:
            console.print(Text(printable(f"refused: {planner} at {target:g}: {reason}")))
