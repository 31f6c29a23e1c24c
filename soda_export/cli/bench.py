"""soda-export bench"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..bench import BenchOptions, bench_bundle
from .terminal import megabytes, print_json, print_table, progress_bar


def bench(
    bundle: str,
    /,
    *,
    options: Annotated[BenchOptions, Parameter(name="*")] = BenchOptions(),
    json: bool = False,
) -> None:
    """Measure latency, memory and error of a bundle against computing everything on the same backend.

    Examples:

        soda-export bench engines/digits-b17-ort

        soda-export bench engines/digits-b17-ort --batch 1 --rounds 15 --json

    Parameters
    ----------
    bundle
        Bundle folder.
    json
        Print the result as JSON.
    """
    with progress_bar() as progress:
        result = bench_bundle(Path(bundle), options, lambda done, total: progress("bench", done, total))
    if json:
        print_json(result)
        return
    memory = result.memory_bytes
    print_table(
        f"{bundle}: {result.backend}, batch {result.batch}, median of {result.rounds}",
        [
            ("latency", f"{1e3 * result.latency_s:.1f} ms, all-compute {1e3 * result.baseline_latency_s:.1f} ms"),
            ("speedup", f"{result.speedup:.2f}x"),
            ("FLOPs ratio", f"{result.flops_ratio:.2f}x"),
            ("realization", f"{result.realization:.3f} (speedup / FLOPs ratio)"),
            ("dispatch", f"{result.dispatch_us_per_step:.1f} us a step in Python"),
            ("error", f"RMSE {result.error.rmse:.4f} ({100 * result.error.relative:.2f} %) against all-compute"),
            ("weights", f"{megabytes(memory.weights_once)} once, {megabytes(memory.weights_resident)} resident"),
            ("arena / activations", f"{megabytes(memory.arena)} / {megabytes(memory.activations)}"),
        ],
    )
