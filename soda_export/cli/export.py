"""soda-export export"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from soda_runtime.serve.options import ServeOptions
from soda_runtime.serve.triton_repository import write_repository

from ..errors import PlanError, UsageError
from ..files import check_out, write_whole
from ..plan.interchange import WRITERS, Tool
from ..plan.plan import read_plan
from .terminal import print_json, say, start_logging

log = logging.getLogger(__name__)


def export(
    source: Path,
    /,
    *,
    to: Annotated[Tool | Literal["triton"], Parameter(name="--to")],
    out: Path | None = None,
    batch: int | None = None,
    wait_ms: float | None = None,
    queue: int | None = None,
    json: bool = False,
) -> None:
    """Write a plan's schedule for another tool, where that can say all of it: modules computed or reused, no more; or
    a bundle as a model for NVIDIA Triton.

    Examples:

        soda-export export digits-b17.plan.json --to smoothcache --out schedule.json

        soda-export export digits-b17.plan.json --to cache-dit

        soda-export export engines/digits-b17-ort --to triton --out models --batch 8

    Parameters
    ----------
    source
        Plan file; for triton, bundle folder.
    to
        Tool that the schedule or the bundle is for.
    out
        File to write; for triton, folder of models, which gets one of the bundle's name. [default: PLAN with the ending
        .TOOL.json, models]
    batch
        triton: most images made at once. [default: 4]
    wait_ms
        triton: how long a request may wait for others to be made together with it. [default: 0]
    queue
        triton: most requests that wait. [default: 32]
    json
        Print the result as JSON.
    """
    start_logging()
    settings = {"batch": batch, "wait_ms": wait_ms, "queue": queue}
    given = {name: value for name, value in settings.items() if value is not None}
    if to == "triton":
        _to_triton(source, out or Path("models"), ServeOptions(**given), json)  # type: ignore[arg-type]
        return
    if given:
        raise UsageError(f"--{min(given).replace('_', '-')}: goes with --to triton; leave it out")
    _to_tool(source, to, out or source.with_suffix(f".{to}.json"), json)


def _to_tool(source: Path, to: Tool, path: Path, json: bool) -> None:
    check_out(path, "a schedule of another tool")
    plan = read_plan(source)
    try:
        content = WRITERS[to](plan.schedule, plan.model)
    except PlanError as error:
        raise PlanError(f"{source}: {error}") from None
    if plan.coefficients is not None:
        log.warning("export: the plan's fitted coefficients are left out; %s uses its sampler as it is", to)
    write_whole(path, content)
    if json:
        print_json({"schedule": str(path), "steps": plan.schedule.steps})
        return
    say(f"{path}: {plan.schedule.steps} steps for {to}")


def _to_triton(bundle: Path, repository: Path, options: ServeOptions, json: bool) -> None:
    place = write_repository(bundle, repository, options)
    if json:
        print_json({"model": str(place)})
        return
    say(f"{place}: a model of Triton's Python backend, which needs `pip install soda-runtime[ort,text]`")
