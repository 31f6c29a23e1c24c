"""soda-export sweep"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..models.load import ModelRequest
from ..options import ProfileOptions, SamplerRequest
from ..sweep.rows import RowFile, check_folder
from ..sweep.run import WorkerOptions
from ..sweep.summary import Summary, pool_points
from ..sweep.sweep import SweepOptions, make_setting, make_units, run_sweep
from ..sweep.table import show
from .planning import given_map, open_workbench
from .terminal import print_json, progress_bar, start_logging


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
        Sensitivity map of `soda-export profile`; profiles if not given.
    json
        Print rows and comparisons as JSON.
    """
    start_logging()
    check_folder(options.out)
    sensitivity = given_map(map)
    units = make_units(options, profiling.seed if sensitivity is None else sensitivity.info.seed)
    with progress_bar() as progress:
        bench = open_workbench(model, sampler, progress, sensitivity)
        measured = bench.profile(profiling) if sensitivity is None else sensitivity
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
        print(f"{options.out}: table.csv, sweep.json, sweep.md, pareto.png")


def _print_points(rows: RowFile, summary: Summary) -> None:
    """One line a planner and target, over all seeds; the files have the other figures."""
    table = Table(title="RMSE against unaccelerated samples, 95 % intervals", title_justify="left")
    for head in ("target", "planner", "FLOPs ratio", "RMSE", "latency"):
        table.add_column(head)
    for point in sorted(pool_points(rows), key=lambda point: (point.target_flops_ratio, point.rmse.mean)):
        latency = "" if point.latency_s is None else f"{1e3 * point.latency_s:.1f} ms"
        error = Text(show(point.rmse, "{:.4f}"))
        table.add_row(f"{point.target_flops_ratio:g}", point.planner, f"{point.flops_ratio:.3f}", error, latency)
    console = Console()
    console.print(table)
    for pair in summary.pairs:
        if pair.geometric_mean is not None:
            words = f"RMSE of {summary.planner} / {pair.other}: {show(pair.geometric_mean)} in the geometric mean"
            console.print(Text(words))
    for target, planner, reason in dict.fromkeys((r.target_flops_ratio, r.planner, r.error) for r in rows.rows):
        if reason:
            console.print(Text(f"refused: {planner} at {target:g}: {reason}"))
