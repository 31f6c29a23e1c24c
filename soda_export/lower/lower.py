"""Lower a plan: the fewest step programs, each slot's live ranges, and the cache arena."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..models.flops import full_step_flops, step_flops
from ..models.precision import VALUE_BYTES, Compute
from ..models.spec import DenoiserSpec
from ..plan.plan import Plan, exact_floats, hash_of, plan_text
from ..plan.schedule import BLOCKS_RUN, Schedule
from .arena import layout_arena
from .liveness import live_values
from .needs import SlotNeeds, Weights, needs_of_slot
from .program import FORMAT, STACK, VERSION, ProgramTable, Slot, StepProgram
from .verify import verify_table


def lower_plan(plan: Plan, spec: DenoiserSpec, precision: Compute = "fp32") -> ProgramTable:
    """Lower a plan that fits `spec` (plan.check_fits). Raises PlanError where it reads what was never computed.

    Kept counts are rounded up to the model's quantum. Writes that nobody reads are dropped; steps that then do the
    same work share a program, which writes what any of them needs.
    """
    schedule = round_keeps(plan.schedule, spec)
    needs = _walk(schedule, spec)
    work = np.concatenate([schedule.kept.reshape(schedule.steps, -1), schedule.stack[:, None]], axis=1)
    step_programs = np.unique(work, axis=0, return_inverse=True)[1].reshape(-1)
    order = {old: new for new, old in enumerate(dict.fromkeys(step_programs.tolist()))}  # by first use
    steps_of = [np.flatnonzero(step_programs == old) for old in order]
    groups = [_forecast_groups(steps, needs) for steps in steps_of]
    programs = [
        _program(schedule, int(steps[0]), _written(steps, needs), tuple(group), spec, plan.rows)
        for steps, group in zip(steps_of, groups, strict=True)
    ]
    indices = tuple(order[int(old)] for old in step_programs)
    weights = _forecast_weights([groups[i] for i in indices], needs)
    everything = Schedule.of(np.full((1, *schedule.kept.shape[1:]), spec.num_tokens))
    baseline = _program(everything, 0, (), (), spec, plan.rows)
    if baseline not in programs:
        programs.append(baseline)
    values = live_values([programs[i] for i in indices])
    value_bytes = plan.rows * spec.num_tokens * spec.width * VALUE_BYTES[precision]
    spent = sum(programs[i].flops for i in indices)
    table = ProgramTable(
        FORMAT, VERSION, plan.model, plan.sampler, plan.guidance, plan.rows, plan.token_score,
        hash_of(plan_text(plan)), len(indices) * full_step_flops(spec, plan.rows) / max(1, spent), tuple(programs),
        indices, programs.index(baseline), weights, values,
        layout_arena(values, value_bytes, _naive_places(programs, spec)),
        tuple(map(tuple, exact_floats(plan.coefficients))),
    )  # fmt: skip
    verify_table(table)
    return table


def round_keeps(schedule: Schedule, spec: DenoiserSpec) -> Schedule:
    """Round kept-token counts up to the model's quantum; a count that reaches all tokens is a full computation."""
    quantum, kept = spec.keep_quantum, schedule.kept
    rounded = np.where(kept > 0, np.minimum(-(-kept // quantum) * quantum, spec.num_tokens), kept)
    rounded[schedule.stack != BLOCKS_RUN] = 0
    return Schedule(rounded, schedule.stack)


def _walk(schedule: Schedule, spec: DenoiserSpec) -> dict[Slot, SlotNeeds]:
    """What every slot needs. Where all blocks are skipped, no module's value is touched."""
    runs = np.flatnonzero(schedule.stack == BLOCKS_RUN)
    needs = {}
    for layer in range(spec.num_layers):
        for m, name in enumerate(spec.modules):
            work = schedule.kept[runs, layer, m].tolist()
            needs[Slot(layer, name)] = needs_of_slot(work, runs.tolist(), spec.num_tokens, f"layer {layer}, {name}")
    stack = np.where(schedule.stack == BLOCKS_RUN, spec.num_tokens, -schedule.stack).tolist()
    needs[Slot(spec.num_layers, STACK)] = needs_of_slot(stack, range(schedule.steps), spec.num_tokens, "reuse_stack")
    return needs


def _written(steps: NDArray[np.int64], needs: dict[Slot, SlotNeeds]) -> tuple[Slot, ...]:
    """Slots that some of the steps, which share a program, must write."""
    wanted = set(steps.tolist())
    return tuple(slot for slot, need in needs.items() if not wanted.isdisjoint(need.written))


def _forecast_groups(steps: NDArray[np.int64], needs: dict[Slot, SlotNeeds]) -> list[tuple[Slot, ...]]:
    """Forecast slots of a program, together where they have the same weights at each of its steps."""
    groups: dict[tuple[Weights, ...], list[Slot]] = {}
    for slot, need in needs.items():
        if int(steps[0]) in need.weights:
            groups.setdefault(tuple(need.weights[t] for t in steps.tolist()), []).append(slot)
    return [tuple(group) for group in groups.values()]


def _forecast_weights(
    groups: list[list[tuple[Slot, ...]]], needs: dict[Slot, SlotNeeds]
) -> tuple[tuple[Weights, ...], ...]:
    """For each step the weights of its groups, padded to the largest number of groups."""
    most = max(len(group) for group in groups)
    nothing: Weights = (0.0, 0.0, 0.0)
    return tuple(
        (*(needs[group[0]].weights[t] for group in of_step), *[nothing] * (most - len(of_step)))
        for t, of_step in enumerate(groups)
    )


def _naive_places(programs: list[StepProgram], spec: DenoiserSpec) -> int:
    """Values that a layout without live ranges holds: every module's latest, and what else is read of any slot."""
    places = {Slot(layer, name) for layer in range(spec.num_layers) for name in spec.modules}
    return len(places.union(*(program.reads for program in programs)))


def _program(
    schedule: Schedule, step: int, written: tuple[Slot, ...], forecasts: tuple[tuple[Slot, ...], ...],
    spec: DenoiserSpec, rows: int,
) -> StepProgram:  # fmt: skip
    kept, stack = schedule.kept[step], int(schedule.stack[step])
    if stack == BLOCKS_RUN:
        reads = [
            Slot(layer, name, age)
            for layer in range(spec.num_layers)
            for m, name in enumerate(spec.modules)
            if kept[layer, m] < spec.num_tokens
            for age in range(1 + max(0, -int(kept[layer, m])))
        ]
    else:
        reads = [Slot(spec.num_layers, STACK, age) for age in range(1 + stack)]
    return StepProgram(
        tuple(tuple(int(k) for k in row) for row in kept), stack, tuple(reads), written, forecasts,
        step_flops(spec, rows, kept, stack),
    )  # fmt: skip
