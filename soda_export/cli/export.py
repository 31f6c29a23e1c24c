"""soda-export export"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..errors import PlanError
from ..files import check_out, write_whole
from ..plan.interchange import WRITERS, Tool
from ..plan.plan import read_plan
from .terminal import print_json, say, start_logging

log = logging.getLogger(__name__)


def export(
    plan: Path, /, *, to: Annotated[Tool, Parameter(name="--to")], out: Path | None = None, json: bool = False
) -> None:
    """Write a plan's schedule for another tool, where that can say all of it: modules computed or reused, no more.

    Examples:

        soda-export export digits-b17.plan.json --to smoothcache --out schedule.json

        soda-export export digits-b17.plan.json --to cache-dit

    Parameters
    ----------
    plan
        Plan file.
    to
        Tool that the schedule is for.
    out
        File to write. [default: PLAN with the ending .TOOL.json]
    json
        Print the result as JSON.
    """
    start_logging()
    path = out or plan.with_suffix(f".{to}.json")
    check_out(path, "a schedule of another tool")
    given = read_plan(plan)
    try:
        content = WRITERS[to](given.schedule, given.model)
    except PlanError as error:
        raise PlanError(f"{plan}: {error}") from None
    if given.coefficients is not None:
        log.warning("export: the plan's fitted coefficients are left out; %s uses its sampler as it is", to)
    write_whole(path, content)
    if json:
        print_json({"schedule": str(path), "steps": given.schedule.steps})
        return
    say(f"{path}: {given.schedule.steps} steps for {to}")
