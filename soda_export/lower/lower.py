"""Lower a plan: the fewest step programs, each slot's live ranges, and the cache arena."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from ..errors import PlanError
from ..models.flops import full_step_flops, step_flops
from ..models.precision import VALUE_BYTES, Precision
from ..models.spec import DenoiserSpec
from ..plan.plan import Plan, hash_of, plan_text
from .arena import layout_arena
from .liveness import live_values
from .program import FORMAT, VERSION, ProgramTable, Slot, StepProgram
from .verify import verify_table

log = logging.getLogger(__name__)


def lower_plan(plan: Plan, spec: DenoiserSpec, precision: Precision = "fp32") -> ProgramTable:
    """Lower a plan that fits `spec` (plan.check_fits). Raises PlanError where it reads what was never computed.

    Kept counts are rounded up to the model's quantum. Writes that nobody reads are dropped; steps that then do the
    same work share a program, which writes what any of them needs.
    """
    kept = round_keeps(plan.kept, spec)
    needed = _needed_writes(kept, spec)
    unique, step_programs = np.unique(kept.reshape(len(kept), -1), axis=0, return_inverse=True)
    step_programs = step_programs.reshape(-1)
    order = {old: new for new, old in enumerate(dict.fromkeys(step_programs.tolist()))}  # by first use
    programs = [StepProgram((), (), (), 0)] * len(unique)
    for old, new in order.items():
        writes = needed[step_programs == old].any(axis=0)
        programs[new] = _program(unique[old].reshape(kept.shape[1:]), writes, spec, plan.rows)
    indices = tuple(order[int(old)] for old in step_programs)
    baseline = _program(np.full(kept.shape[1:], spec.num_tokens), np.zeros(kept.shape[1:], bool), spec, plan.rows)
    if baseline not in programs:
        programs.append(baseline)
    values = live_values([programs[i] for i in indices])
    value_bytes = plan.rows * spec.num_tokens * spec.width * VALUE_BYTES[precision]
    spent = sum(programs[i].flops for i in indices)
    table = ProgramTable(
        FORMAT, VERSION, plan.model, plan.sampler, plan.guidance, plan.rows, plan.token_score,
        hash_of(plan_text(plan)), len(indices) * full_step_flops(spec, plan.rows) / spent, tuple(programs), indices,
        programs.index(baseline), values, layout_arena(values, value_bytes, spec.num_layers * len(spec.modules)),
    )  # fmt: skip
    verify_table(table)
    log.info(
        "programs: %d for %d steps, FLOPs ratio %.3f, arena %.2f MB a sample (lower bound %.2f, naive %.2f)",
        table.num_engines, len(indices), table.flops_ratio, table.arena.bytes / 1e6,
        table.arena.lower_bound_bytes / 1e6, table.arena.naive_bytes / 1e6,
    )  # fmt: skip
    return table


def round_keeps(kept: NDArray[np.int64], spec: DenoiserSpec) -> NDArray[np.int64]:
    """Round kept-token counts up to the model's quantum; a count that reaches all tokens is a full computation."""
    quantum = spec.keep_quantum
    return np.minimum(-(-kept // quantum) * quantum, spec.num_tokens)


def _needed_writes(kept: NDArray[np.int64], spec: DenoiserSpec) -> NDArray[np.bool_]:
    """Whether a later step reads what this one computed, before it is computed anew: [S, L, M]."""
    full = kept == spec.num_tokens
    if not full[0].all():
        layer, m = (int(i) for i in np.argwhere(~full[0])[0])
        raise PlanError(
            f"step 0, layer {layer}, {spec.modules[m]}: nothing is cached yet; the first step must compute everything"
        )
    needed = np.zeros(kept.shape, bool)
    # the very next step tells: it reads the slot (reuse, prune), or computes it anew
    needed[:-1] = (kept[:-1] > 0) & ~full[1:]
    return needed


def _program(
    kept: NDArray[np.int64], writes: NDArray[np.bool_], spec: DenoiserSpec, rows: int
) -> StepProgram:
    slots = [(layer, m, Slot(layer, name)) for layer in range(spec.num_layers) for m, name in enumerate(spec.modules)]
    return StepProgram(
        tuple(tuple(int(k) for k in row) for row in kept),
        tuple(slot for i, m, slot in slots if kept[i, m] < spec.num_tokens),
        tuple(slot for i, m, slot in slots if writes[i, m]),
        step_flops(spec, rows, kept),
    )
