"""soda-export import"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..errors import PlanError, UsageError
from ..files import check_out, write_whole
from ..models.identity import identify
from ..models.published import DENOISERS
from ..models.request import ModelRequest
from ..options import SamplerRequest
from ..plan.interchange import READERS, Source
from ..plan.interchange.ones import Ones
from ..plan.plan import Plan, plan_text
from .terminal import print_json, print_table, progress_bar, start_logging


def import_(
    file: Path,
    /,
    *,
    from_: Annotated[Source, Parameter(name="--from")],
    model: Annotated[ModelRequest, Parameter(name="*", group="Model")],
    sampler: Annotated[SamplerRequest, Parameter(name="*", group="Sampling")] = SamplerRequest(),
    ones: Ones = "computed",
    out: Path | None = None,
    json: bool = False,
) -> None:
    """Turn another tool's caching schedule into a plan. Such files name no model and no sampler, so give both.

    Examples:

        soda-export import 50-N-3-threshold-0.18.json --from smoothcache --model dit-xl-2-256 --steps 50

        soda-export import cache.yaml --from cache-dit --model flux-dev --steps 28

        soda-export import ours_fast.json --from ecad --model pixart-256 --sampler dpm-solver++ --steps 20

        soda-export import steps.txt --from dpcache --model digits --out steps.plan.json

    Parameters
    ----------
    file
        SmoothCache: the JSON file. cache-dit: a step mask as digits or a list, or a configuration in YAML or JSON with
        one of its named masks (slow, medium, fast, ultra) or a list. ECAD: the JSON file, or a tensor of steps, blocks
        and components. stable-diffusion.cpp: a list like 1,1,0,1, a command with --scm-mask, or a server's request.
        DPCache: the key steps, e.g. [0, 1, 2, 5, 9].
    from_
        Tool that the schedule is of.
    ones
        What a one marks in the file, or what a list of steps has. Each tool's own files mark what is computed.
    out
        Plan file to write. [default: FILE with the ending .plan.json]
    json
        Print the result as JSON.
    """
    from ..api.planning import open_workbench  # with torch, which help pages do without

    start_logging()
    path = out or file.with_suffix(".plan.json")
    check_out(path, "a plan")
    content = _read(file)
    with progress_bar() as progress:
        bench = open_workbench(model, sampler, progress, parts=(*DENOISERS, "scheduler"))
    spec = bench.loaded.spec
    try:
        schedule = READERS[from_](content, identify(spec), bench.identity.steps, ones)
    except PlanError as error:
        raise PlanError(f"{file}: {error}") from None
    plan = Plan(
        identify(spec),
        bench.identity,
        bench.options.guidance,
        schedule,
        made_by=f"import from={from_} file={file.name}",
    )
    write_whole(path, plan_text(plan))
    ratio = schedule.flops_ratio(spec, plan.rows)
    if json:
        print_json({"plan": str(path), "anchors": plan.anchors, "flops_ratio": ratio})
        return
    anchors = " ".join(str(t) for t in plan.anchors)
    print_table(str(path), [("anchors", anchors), ("FLOPs ratio", f"{ratio:.3f}")])


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file}: cannot be read ({error.strerror})") from None
