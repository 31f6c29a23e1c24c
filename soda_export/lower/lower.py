"""Lower a plan: the fewest step programs, each slot's live ranges, and the cache arena."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import PlanError
from ..models.decisions import COMPUTE, IDLE
from ..models.flops import full_step_flops, step_flops
from ..models.precision import VALUE_BYTES, Compute
from ..models.spec import ModelSpec, Site
from ..plan.plan import Plan, exact_floats, hash_of, plan_text
from ..plan.schedule import Schedule, skipped_work
from .arena import layout_arena, padded_bytes
from .liveness import live_values
from .needs import SiteNeeds, Weights, needs_of_site
from .program import FORMAT, VERSION, ProgramTable, Slot, SlotLayout, StepProgram
from .verify import verify_table


def lower_plan(plan: Plan, spec: ModelSpec, precision: Compute = "fp32", with_skip: bool = False) -> ProgramTable:
    """Lower a plan that fits `spec` (plan.check_fits). Raises PlanError where it reads what was never computed.

    Kept counts are rounded up to the sites' quanta. Writes that nobody reads are dropped; steps that then do the same
    work share a program, which writes what any of them needs. with_skip: whether the program that does not call the
    model is wanted, whatever the plan's steps run.
    """
    schedule = round_keeps(plan.schedule, spec)
    needs = {site.name: needs_of_site(schedule.work[:, k].tolist(), site.name) for k, site in enumerate(spec.sites)}
    step_programs = np.unique(schedule.work, axis=0, return_inverse=True)[1].reshape(-1)
    order = {old: new for new, old in enumerate(dict.fromkeys(step_programs.tolist()))}  # by first use
    steps_of = [np.flatnonzero(step_programs == old) for old in order]
    groups = [_forecast_groups(steps, needs) for steps in steps_of]
    programs = [
        _program(schedule.work[steps[0]], _written(steps, needs), group, spec, plan.rows)
        for steps, group in zip(steps_of, groups, strict=True)
    ]
    indices = tuple(order[int(old)] for old in step_programs)
    baseline = _program(Schedule.full(spec, 1).work[0], set(), [], spec, plan.rows)
    skip = _program(skipped_work(spec), set(), [], spec, plan.rows)
    for wanted in (baseline, *([skip] if with_skip else [])):
        if wanted not in programs:
            programs.append(wanted)
    slots = _slots(programs, spec, plan.rows, VALUE_BYTES[precision])
    values = live_values([programs[i] for i in indices])
    sizes = [slots[str(value.slot)].bytes for value in values]
    spent = sum(programs[i].flops for i in indices)
    table = ProgramTable(
        FORMAT, VERSION, plan.model, plan.sampler, plan.guidance, plan.rows, plan.token_score,
        hash_of(plan_text(plan)), len(indices) * full_step_flops(spec, plan.rows) / max(1, spent), tuple(programs),
        indices, programs.index(baseline), _forecast_weights([groups[i] for i in indices], needs), slots, values,
        layout_arena(values, sizes, _naive_bytes(programs, slots)), tuple(map(tuple, exact_floats(plan.coefficients))),
    )  # fmt: skip
    verify_table(table)
    return table


def round_keeps(schedule: Schedule, spec: ModelSpec) -> Schedule:
    """Round kept-token counts up to the sites' quanta; a count that reaches all tokens is a full computation. Raises
    PlanError where a site's tokens cannot be renewed singly."""
    work = schedule.work
    if work.shape[1] != len(spec.sites):
        raise PlanError(f"the plan decides about {work.shape[1]} sites, {spec.name} has {len(spec.sites)}; plan again")
    renewed = (work > 0) & (work < COMPUTE)
    tokens = np.array([site.tokens for site in spec.sites])
    odd = np.argwhere(renewed & (tokens == 0))
    if odd.size:
        step, k = odd[0]
        raise PlanError(
            f"step {step}, {spec.sites[k].name}: keep={work[step, k]}: its tokens cannot be renewed singly; compute or "
            "reuse it"
        )
    quantum = np.array([site.keep_quantum for site in spec.sites])
    rounded = -(-work // quantum) * quantum
    return Schedule.of(spec, np.where(renewed, np.where(rounded >= tokens, COMPUTE, rounded), work))


def slots_of(site: Site) -> list[Slot]:
    """The latest values of a site, one an output."""
    return [Slot(site.name, output) for output in range(len(site.outputs))]


def _program(
    work: NDArray[np.int64], written: set[str], groups: Sequence[Sequence[str]], spec: ModelSpec, rows: int
) -> StepProgram:
    """written: names of sites. groups: of sites that share weights."""
    sites = {site.name: site for site in spec.sites}
    reads = [
        slot._replace(age=age)
        for site, does in zip(spec.sites, work.tolist(), strict=True)
        if does not in (COMPUTE, IDLE)
        for slot in slots_of(site)
        for age in range(1 + max(0, -does))
    ]
    writes = [slot for site in spec.sites if site.name in written for slot in slots_of(site)]
    forecasts = tuple(tuple(slot for name in group for slot in slots_of(sites[name])) for group in groups)
    return StepProgram(
        tuple(work.tolist()), tuple(reads), tuple(writes), forecasts, step_flops(spec, rows, work.tolist())
    )


def _written(steps: NDArray[np.int64], needs: Mapping[str, SiteNeeds]) -> set[str]:
    """Sites whose values some of the steps, which share a program, must write."""
    wanted = set(steps.tolist())
    return {name for name, need in needs.items() if not wanted.isdisjoint(need.written)}


def _forecast_groups(steps: NDArray[np.int64], needs: Mapping[str, SiteNeeds]) -> list[list[str]]:
    """Forecast sites of a program, together where they have the same weights at each of its steps."""
    groups: dict[tuple[Weights, ...], list[str]] = {}
    for name, need in needs.items():
        if int(steps[0]) in need.weights:
            groups.setdefault(tuple(need.weights[t] for t in steps.tolist()), []).append(name)
    return list(groups.values())


def _forecast_weights(
    groups: Sequence[Sequence[Sequence[str]]], needs: Mapping[str, SiteNeeds]
) -> tuple[tuple[Weights, ...], ...]:
    """For each step the weights of its groups, padded to the largest number of groups."""
    most = max(len(group) for group in groups)
    nothing: Weights = (0.0, 0.0, 0.0)
    return tuple(
        (*(needs[group[0]].weights[t] for group in of_step), *[nothing] * (most - len(of_step)))
        for t, of_step in enumerate(groups)
    )


def _slots(programs: Sequence[StepProgram], spec: ModelSpec, rows: int, item_bytes: int) -> dict[str, SlotLayout]:
    """Of every slot that a program touches."""
    touched = {slot.latest for program in programs for slot in (*program.reads, *program.writes)}
    return {
        str(slot): SlotLayout(shape, item_bytes, padded_bytes(rows * math.prod(shape) * item_bytes))
        for site in spec.sites
        for slot, shape in zip(slots_of(site), site.outputs, strict=True)
        if slot in touched
    }


def _naive_bytes(programs: Sequence[StepProgram], slots: Mapping[str, SlotLayout]) -> int:
    """What a layout without live ranges takes: a place for every slot, and for every age that is read of it."""
    touched = {slot for program in programs for slot in (*program.reads, *program.writes)}
    return sum(slots[str(slot.latest)].bytes for slot in touched)
