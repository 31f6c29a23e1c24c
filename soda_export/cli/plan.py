"""soda-export plan"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..errors import UsageError
from ..files import check_out, write_whole
from ..lower.lower import lower_plan
from ..models.request import ModelRequest
from ..options import ProfileOptions, SamplerRequest
from ..plan.anchors import anchor_cost, solve_anchors
from ..plan.plan import plan_text
from ..plan.prior import read_prior
from ..plan.solve import PlanOptions, pruned_share
from ..report.schedule import draw_schedule
from .terminal import print_json, print_table, progress_bar, say, start_logging


def plan(
    *,
    model: Annotated[ModelRequest | None, Parameter(name="*", group="Model")] = None,
    map: Path | None = None,
    prior: Path | None = None,
    sampler: Annotated[SamplerRequest, Parameter(name="*", group="Sampling")] = SamplerRequest(),
    profiling: Annotated[ProfileOptions, Parameter(name="*", group="Profiling")] = ProfileOptions(),
    planning: Annotated[PlanOptions, Parameter(name="*", group="Planning")] = PlanOptions(),
    out: Path | None = None,
    json: bool = False,
) -> None:
    """Choose the anchor steps and what every module does in between, and write the plan.

    Examples:

        soda-export plan --model digits --budget 17 --out plan.json

        soda-export plan --model digits --map digits.map.safetensors --budget 17 --flops-ratio 2.5

        soda-export plan --prior cem_dit_prior.json --steps 50 --budget 18 --cost cem --json

    Parameters
    ----------
    map
        Sensitivity map of `soda-export profile`, or `uniform` to plan without one; profiles if not given, where the
        planner reads a map.
    prior
        Bare prior file (reuse error by distance and step): plans the anchors alone, without any model.
    out
        Plan file to write. [default: MODEL-bBUDGET.plan.json; nothing with --prior]
    json
        Print the result as JSON.
    """
    start_logging()
    if (prior is None) == (model is None):
        raise UsageError("give either --model (and perhaps --map) or --prior")
    if prior is not None:
        if map is not None or out is not None:
            raise UsageError("--prior plans anchors alone and prints them: leave out --map and --out")
        _plan_prior(prior, sampler, planning, json)
        return
    if out is not None:
        check_out(out, "a plan")
    assert model is not None
    from ..api.planning import budget_name, given_map, open_workbench, solve  # with torch, which help pages do without

    with progress_bar() as progress:
        sensitivity = given_map(map)
        bench = open_workbench(model, sampler, progress, sensitivity)
        solved = solve(bench, sensitivity, profiling, planning, map=map)
    table = lower_plan(solved.plan, bench.loaded.spec)
    path = out or Path(f"{bench.loaded.spec.name}-{budget_name(planning)}.plan.json")
    check_out(path, "a plan")
    write_whole(path, plan_text(solved.plan))
    result = {
        "plan": str(path), "anchors": solved.plan.anchors, "flops_ratio": table.flops_ratio,
        "programs": table.num_engines, "pruned_share": pruned_share(solved.plan), "beta": solved.beta,
        "merge_loss": solved.merge_loss,
    }  # fmt: skip
    if json:
        print_json(result)
        return
    say(*draw_schedule(solved.plan.schedule, solved.plan.model))
    print_table(
        str(path),
        [
            ("anchors", " ".join(str(t) for t in solved.plan.anchors)),
            ("FLOPs ratio", f"{table.flops_ratio:.3f}"),
            ("programs", str(table.num_engines)),
            ("pruned", f"{100 * pruned_share(solved.plan):.1f} % of the modules between anchors"),
            ("given up", f"{100 * solved.merge_loss:.1f} % more predicted error, so that steps share programs"),
        ],
    )


def _plan_prior(path: Path, sampler: SamplerRequest, planning: PlanOptions, json: bool) -> None:
    steps = 50 if sampler.steps is None else sampler.steps
    error = read_prior(path, steps)
    anchors = solve_anchors(anchor_cost(planning.cost, error, planning.budget), planning.budget)
    programs = 1 if planning.budget == steps else 2
    if json:
        # without a model only whole steps are known: a reused step is taken as free
        print_json({"anchors": anchors, "flops_ratio": steps / len(anchors), "programs": programs})
        return
    print_table(str(path), [("anchors", " ".join(str(t) for t in anchors)), ("steps", str(steps))])
