"""Lowering: programs, live ranges, the arena, and its independent verifier."""

from __future__ import annotations

import itertools

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soda_export.errors import InternalError, PlanError
from soda_export.lower.arena import layout_arena, peak_live
from soda_export.lower.lower import lower_plan
from soda_export.lower.program import STACK, CachedValue, ProgramTable, Slot, read_table, table_text
from soda_export.lower.verify import verify_table
from soda_export.plan.forecast import forecast_weights
from soda_export.plan.plan import Plan
from soda_export.plan.schedule import Schedule
from tests.plan.test_solve import SPEC
from tests.tiny import make_plan


@st.composite
def _schedule(draw: st.DrawFn) -> Schedule:
    """Any schedule: orders of forecasts are lowered to what the history allows."""
    steps = draw(st.integers(1, 12))
    cells = st.sampled_from([0, 0, 8, 32, 64, 64, -1, -2])
    kept = np.array(draw(st.lists(cells, min_size=steps * 8, max_size=steps * 8))).reshape(steps, 4, 2)
    stack = np.array(draw(st.lists(st.sampled_from([-1, -1, -1, 0, 1, 2]), min_size=steps, max_size=steps)))
    kept[0], stack[0] = 64, -1
    kept[stack >= 0] = 0
    for t in range(steps):
        runs = stack[:t] == -1
        stack[t] = min(stack[t], runs.sum() - 1)
        kept[t] = np.maximum(kept[t], 1 - (kept[:t][runs] == 64).sum(axis=0)) if stack[t] == -1 else 0
    return Schedule(kept, stack)


def _plan(schedule: Schedule) -> Plan:
    return make_plan(SPEC, schedule.kept, stack=schedule.stack)


@settings(max_examples=300, deadline=None)
@given(_schedule())
def test_the_arena_is_within_the_bounds_for_any_plan(schedule: Schedule) -> None:
    arena = lower_plan(_plan(schedule), SPEC).arena
    assert arena.lower_bound_bytes <= arena.bytes <= 1.05 * arena.lower_bound_bytes
    assert arena.bytes <= arena.naive_bytes


@settings(max_examples=200, deadline=None)
@given(_schedule())
def test_every_step_computes_what_the_plan_says(schedule: Schedule) -> None:
    table = lower_plan(_plan(schedule), SPEC)
    for t, index in enumerate(table.step_programs):
        assert (np.array(table.programs[index].kept) == schedule.kept[t]).all()
        assert table.programs[index].stack == schedule.stack[t]
    different = {(schedule.kept[t].tobytes(), int(schedule.stack[t])) for t in range(schedule.steps)}
    assert len(set(table.step_programs)) == len(different)


@settings(max_examples=300, deadline=None)
@given(_schedule())
def test_every_read_finds_what_the_plan_means(schedule: Schedule) -> None:
    """The plan's meaning, slot by slot, against the table played on an arena of Python values."""
    table = lower_plan(_plan(schedule), SPEC)
    history: dict[Slot, list[tuple[int, ...]]] = {}  # newest first; a value is the steps that wrote it
    arena: dict[int, tuple[Slot, tuple[int, ...]]] = {}
    for t, index in enumerate(table.step_programs):
        program, offsets = table.programs[index], table.offsets_at(t)
        for slot in program.reads:
            assert arena[offsets[slot]] == (slot.latest, history[slot.latest][slot.age])
        wanted = {slot for slot in program.reads if slot.age == 0}
        touched = {Slot(layer, name) for layer in range(4) for name in SPEC.modules}
        if schedule.stack[t] == -1:
            assert wanted == {s for s in touched if schedule.kept[t, s.layer, SPEC.modules.index(s.module)] < 64}
            for slot in touched:
                does = schedule.kept[t, slot.layer, SPEC.modules.index(slot.module)]
                if does == 64:
                    history.setdefault(slot, []).insert(0, (t,))
                elif does > 0:
                    history[slot][0] += (t,)
            history.setdefault(Slot(4, STACK), []).insert(0, (t,))
        else:
            assert wanted == {Slot(4, STACK)}
        for slot in program.writes:
            arena[offsets[slot]] = (slot, history[slot][0])


@settings(max_examples=200, deadline=None)
@given(_schedule())
def test_forecasts_carry_the_weights_of_their_own_history(schedule: Schedule) -> None:
    table = lower_plan(_plan(schedule), SPEC)
    for t, index in enumerate(table.step_programs):
        rows = table.programs[index].forecast_rows
        for layer in range(4):
            for m, name in enumerate(SPEC.modules):
                order = -int(schedule.kept[t, layer, m])
                if order <= 0 or schedule.stack[t] != -1:
                    assert Slot(layer, name) not in rows
                    continue
                runs = [s for s in range(t) if schedule.stack[s] == -1 and schedule.kept[s, layer, m] == 64]
                expected = forecast_weights(t, runs[::-1], order)
                assert table.forecast_weights[t][rows[Slot(layer, name)]][: order + 1] == expected


@settings(max_examples=100, deadline=None)
@given(_schedule())
def test_flops_of_the_table_add_up(schedule: Schedule) -> None:
    table = lower_plan(_plan(schedule), SPEC)
    full = table.programs[table.baseline].flops
    spent = sum(table.programs[i].flops for i in table.step_programs)
    assert table.flops_ratio == pytest.approx(schedule.steps * full / spent)
    assert table.flops_ratio == pytest.approx(schedule.flops_ratio(SPEC, table.rows))


@settings(max_examples=200, deadline=None)
@given(_schedule(), st.data())
def test_the_verifier_finds_a_value_moved_onto_a_live_one(schedule: Schedule, data: st.DataObject) -> None:
    table = lower_plan(_plan(schedule), SPEC)
    read_later = [i for i, v in enumerate(table.values) if v.last > v.first]
    if not read_later:
        return
    victim = data.draw(st.sampled_from(read_later))
    value = table.values[victim]
    clashing = [
        i for i, other in enumerate(table.values)
        if i != victim and value.first < other.first <= value.last and other.slot != value.slot
    ]  # fmt: skip
    if not clashing:
        return
    offsets = list(table.arena.offsets)
    offsets[data.draw(st.sampled_from(clashing))] = offsets[victim]
    broken = msgspec.structs.replace(table, arena=msgspec.structs.replace(table.arena, offsets=tuple(offsets)))
    with pytest.raises(InternalError):
        verify_table(broken)


def _simple() -> ProgramTable:
    kept = np.full((5, 4, 2), 64)
    kept[1] = kept[2] = kept[4] = 0
    return lower_plan(make_plan(SPEC, kept), SPEC)


def test_the_last_write_that_nobody_reads_is_dropped() -> None:
    kept = np.full((4, 4, 2), 64)
    kept[1] = 0
    table = lower_plan(make_plan(SPEC, kept), SPEC)
    # steps 0, 2, 3 compute everything and share one program; the baseline caches nothing
    assert table.step_programs == (0, 1, 0, 0)
    assert len(table.programs[0].writes) == 8
    assert table.programs[table.baseline].writes == ()
    all_compute = lower_plan(make_plan(SPEC, np.full((4, 4, 2), 64)), SPEC)
    assert all_compute.arena.bytes == 0
    assert all_compute.baseline == 0


def test_a_slot_that_is_pruned_stays_in_place() -> None:
    kept = np.full((4, 4, 2), 64)
    kept[1:3] = 0
    kept[1:3, :, 1] = 8
    table = lower_plan(make_plan(SPEC, kept), SPEC)
    for slot in table.programs[1].writes:
        assert table.offsets_at(1)[slot] == table.offsets_at(0)[slot]
    assert set(table.programs[1].writes) == {Slot(layer, "ff") for layer in range(4)}


def test_a_read_before_any_computation_is_refused() -> None:
    kept = np.full((3, 4, 2), 64)
    kept[0, 2, 1] = 8
    with pytest.raises(PlanError, match="step 0, layer 2, ff"):
        lower_plan(make_plan(SPEC, kept), SPEC)


def test_a_forecast_without_enough_history_is_refused() -> None:
    kept = np.full((3, 4, 2), 64)
    kept[2] = -2
    with pytest.raises(PlanError, match="step 2, layer 0, attn: a forecast of order 2 needs 3 computed outputs"):
        lower_plan(make_plan(SPEC, kept), SPEC)
    with pytest.raises(PlanError, match="step 1, reuse_stack: a forecast of order 1 needs 2 computed outputs"):
        lower_plan(make_plan(SPEC, np.full((2, 4, 2), 64), stack=np.array([-1, 1])), SPEC)


def test_keeps_are_rounded_up_to_the_quantum() -> None:
    kept = np.full((2, 4, 2), 64)
    kept[1] = 1
    kept[1, 0] = 63
    rounded = np.array(lower_plan(make_plan(SPEC, kept), SPEC).programs[1].kept)
    assert rounded[0].tolist() == [64, 64]
    assert (rounded[1:] == 8).all()


def test_slots_at_every_step_never_share_bytes() -> None:
    table = _simple()
    for step in range(5):
        offsets = sorted(table.offsets_at(step).values())
        assert all(b - a >= table.arena.slot_bytes for a, b in itertools.pairwise(offsets))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 6)), max_size=30))
def test_equal_sizes_reach_the_lower_bound(ranges: list[tuple[int, int]]) -> None:
    values = [CachedValue(Slot(i, "ff"), first, first + length) for i, (first, length) in enumerate(sorted(ranges))]
    layout = layout_arena(values, 100, len(values))
    assert layout.bytes == peak_live(values) * 256


def test_the_table_survives_its_file() -> None:
    table = _simple()
    assert read_table(table_text(table), "programs.json") == table
    with pytest.raises(PlanError, match=r"x\.json"):
        read_table(b'{"format": 1}', "x.json")
