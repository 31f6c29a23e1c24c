"""soda-export profile"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..files import check_out, write_whole
from ..models.request import ModelRequest
from ..options import ProfileOptions, SamplerRequest
from ..plan.sensitivity import map_bytes
from .terminal import print_json, print_table, progress_bar, start_logging


def profile(
    *,
    model: Annotated[ModelRequest, Parameter(name="*", group="Model")],
    sampler: Annotated[SamplerRequest, Parameter(name="*", group="Sampling")] = SamplerRequest(),
    profiling: Annotated[ProfileOptions, Parameter(name="*", group="Profiling")] = ProfileOptions(),
    out: Path | None = None,
    json: bool = False,
) -> None:
    """Measure how much reusing or pruning each module at each step would change, and write the map.

    Examples:

        soda-export profile --model digits --out digits.map.safetensors

        soda-export profile --model digits --steps 20 --samples 100 --metric l2

    Parameters
    ----------
    out
        File to write. [default: MODEL-SAMPLERSTEPS.map.safetensors]
    json
        Print the result as JSON.
    """
    from ..api.planning import open_workbench  # with torch, which help pages do without

    start_logging()
    if out is not None:
        check_out(out, "a sensitivity map")
    with progress_bar() as progress:
        bench = open_workbench(model, sampler, progress)
        sensitivity = bench.profile(profiling)
    default = f"{bench.loaded.spec.name}-{bench.options.sampler}{bench.options.steps}.map.safetensors"
    path = out or Path(default)
    check_out(path, "a sensitivity map")
    write_whole(path, map_bytes(sensitivity))
    error = sensitivity.relative_standard_error()
    if json:
        print_json({"map": str(path), "samples": sensitivity.info.samples, "relative_standard_error": error})
        return
    print_table(
        str(path),
        [("samples", str(sensitivity.info.samples)), ("standard error", f"{100 * error:.1f} % of the mean (median)")],
    )
