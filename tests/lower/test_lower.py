"""Lowering: programs and what they read, write and weigh, for any plan of any model."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soda_export.errors import PlanError
from soda_export.lower.lower import lower_plan
from soda_export.lower.program import ProgramTable, Slot, read_table, table_text
from soda_export.models.decisions import COMPUTE, IDLE, is_forecast
from soda_export.models.spec import ModelSpec
from soda_export.plan.forecast import forecast_weights
from soda_export.plan.planners.orders import limit_orders
from soda_export.plan.schedule import Schedule
from tests.plan.problems import FLUX_TOY, NESTED, TOY, at, full_work, plan_of

Case = tuple[ModelSpec, Schedule]


@st.composite
def cases(draw: st.DrawFn, specs: tuple[ModelSpec, ...] = (TOY, FLUX_TOY, NESTED)) -> Case:
    """Any schedule of any model: orders of forecasts are lowered to what the history allows."""
    spec = draw(st.sampled_from(specs))
    steps, seed = draw(st.integers(1, 12)), draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    work = rng.choice([0, 0, 8, 32, COMPUTE, COMPUTE, -1, -2], (steps, len(spec.sites)))
    containers = [k for k in range(len(spec.sites)) if k not in spec.leaves]
    often = rng.choice([COMPUTE, COMPUTE, COMPUTE, 0, -1, -2], (steps, len(containers)))
    work[:, containers] = often
    quanta = np.array([site.keep_quantum for site in spec.sites])
    renewed = (work > 0) & (work < COMPUTE)
    tokens = np.array([site.tokens for site in spec.sites])
    work = np.where(renewed, np.where(tokens == 0, 0, 2 * quanta), work)
    work[0] = COMPUTE
    return spec, limit_orders(Schedule.of(spec, work))


@settings(max_examples=200, deadline=None)
@given(cases())
def test_every_step_computes_what_the_plan_says(case: Case) -> None:
    spec, schedule = case
    table = lower_plan(plan_of(spec, schedule.work), spec)
    for t, index in enumerate(table.step_programs):
        assert table.programs[index].work == tuple(schedule.work[t])
    assert table.num_engines == schedule.num_kinds


@settings(max_examples=300, deadline=None)
@given(cases())
def test_every_read_finds_what_the_plan_means(case: Case) -> None:
    """The plan's meaning, site by site, against the table played on an arena of Python values."""
    spec, schedule = case
    table = lower_plan(plan_of(spec, schedule.work), spec)
    history: dict[Slot, list[tuple[int, ...]]] = {}  # newest first; a value is the steps that wrote it
    arena: dict[int, tuple[Slot, tuple[int, ...]]] = {}
    for t, index in enumerate(table.step_programs):
        program, offsets = table.programs[index], table.offsets_at(t)
        for slot in program.reads:
            assert arena[offsets[slot]] == (slot.latest, history[slot.latest][slot.age])
        wanted = set()
        for k, site in enumerate(spec.sites):
            for output in range(len(site.outputs)):
                slot, does = Slot(site.name, output), int(schedule.work[t, k])
                if does not in (COMPUTE, IDLE):
                    wanted |= {Slot(site.name, output, age) for age in range(1 + max(0, -does))}
                if does == COMPUTE:
                    history.setdefault(slot, []).insert(0, (t,))
                elif does > 0:
                    history[slot][0] += (t,)
        assert set(program.reads) == wanted
        for slot in program.writes:
            arena[offsets[slot]] = (slot, history[slot][0])


@settings(max_examples=200, deadline=None)
@given(cases())
def test_forecasts_carry_the_weights_of_their_own_history(case: Case) -> None:
    spec, schedule = case
    table = lower_plan(plan_of(spec, schedule.work), spec)
    for t, index in enumerate(table.step_programs):
        rows = table.programs[index].forecast_rows
        for k, site in enumerate(spec.sites):
            slots = [Slot(site.name, output) for output in range(len(site.outputs))]
            does = int(schedule.work[t, k])
            if not is_forecast(does):
                assert not rows.keys() & set(slots)
                continue
            computed = [s for s in range(t) if schedule.work[s, k] == COMPUTE]
            expected = forecast_weights(t, computed[::-1], -does)
            for slot in slots:
                assert table.forecast_weights[t][rows[slot]][: 1 - does] == expected


@settings(max_examples=100, deadline=None)
@given(cases())
def test_flops_of_the_table_add_up(case: Case) -> None:
    spec, schedule = case
    table = lower_plan(plan_of(spec, schedule.work), spec)
    full = table.programs[table.baseline].flops
    spent = sum(table.programs[i].flops for i in table.step_programs)
    assert table.flops_ratio == pytest.approx(schedule.steps * full / spent)
    assert table.flops_ratio == pytest.approx(schedule.flops_ratio(spec, table.rows))


def simple() -> ProgramTable:
    return lower_plan(plan_of(TOY, Schedule.at_anchors(TOY, 5, (0, 3)).work), TOY)


def test_the_last_write_that_nobody_reads_is_dropped() -> None:
    table = lower_plan(plan_of(TOY, Schedule.at_anchors(TOY, 4, (0, 2, 3)).work), TOY)
    # steps 0, 2, 3 compute everything and share one program; the baseline caches nothing
    assert table.step_programs == (0, 1, 0, 0)
    assert len(table.programs[0].writes) == 8
    assert table.programs[table.baseline].writes == ()
    all_compute = lower_plan(plan_of(TOY, full_work(TOY, 4)), TOY)
    assert all_compute.arena.bytes == 0
    assert all_compute.slots == {}
    assert all_compute.baseline == 0


def test_a_slot_that_is_pruned_stays_in_place() -> None:
    work = Schedule.at_anchors(TOY, 4, (0, 3)).work
    work[1:3, at(TOY, "ff")] = 8
    table = lower_plan(plan_of(TOY, work), TOY)
    for slot in table.programs[1].writes:
        assert table.offsets_at(1)[slot] == table.offsets_at(0)[slot]
    assert set(table.programs[1].writes) == {Slot(f"transformer_blocks.{layer}.ff") for layer in range(4)}


def test_a_site_of_two_outputs_has_two_slots_of_their_own_size() -> None:
    table = lower_plan(plan_of(FLUX_TOY, Schedule.at_anchors(FLUX_TOY, 4, (0, 1, 2), 1).work), FLUX_TOY, "bf16")
    names = [str(slot) for slot in table.programs[table.step_programs[3]].reads][:4]
    path = "transformer_blocks.0.attn"
    assert names == [path, f"{path}@1", f"{path}#1", f"{path}#1@1"]
    assert table.slots[path].shape == (32, 16)
    assert table.slots[path].bytes == 2 * 32 * 16 * 2  # two rows of bfloat16
    assert table.slots[f"{path}#1"].bytes == 2 * 8 * 16 * 2


def test_a_reused_stack_reads_nothing_else() -> None:
    work = Schedule.at_anchors(TOY, 6, (0, 1, 2), 2, stack=True).work
    table = lower_plan(plan_of(TOY, work), TOY)
    assert set(table.slots) == {"transformer_blocks.3"}
    assert table.programs[table.step_programs[4]].flops == 2 * 5 * 64 * 96


def test_a_reused_block_makes_what_it_contains_idle() -> None:
    work = full_work(NESTED, 3)
    work[1:, 2] = 0  # down; what is said of the sites in it does not matter
    work[1, 0], work[2, 1] = 8, -1
    table = lower_plan(plan_of(NESTED, work), NESTED)
    assert table.programs[1].work == (IDLE, IDLE, 0, COMPUTE, COMPUTE, COMPUTE)
    assert [str(slot) for slot in table.programs[1].reads] == ["down", "down#1"]


def test_a_read_before_any_computation_is_refused() -> None:
    work = full_work(TOY, 3)
    work[0, 5] = 8
    with pytest.raises(PlanError, match=r"step 0, transformer_blocks.2.ff: nothing is cached yet; the first step must"):
        lower_plan(plan_of(TOY, work), TOY)


def test_a_forecast_without_enough_history_is_refused() -> None:
    work = full_work(TOY, 3)
    work[2, TOY.leaves] = -2
    message = "step 2, transformer_blocks.0.attn1: a forecast of order 2 needs 3 computed outputs, there are 2"
    with pytest.raises(PlanError, match=message):
        lower_plan(plan_of(TOY, work), TOY)
    work = full_work(TOY, 2)
    work[1, TOY.stack] = -1
    with pytest.raises(PlanError, match=r"step 1, transformer_blocks.3: a forecast of order 1 needs 2 computed"):
        lower_plan(plan_of(TOY, work), TOY)


def test_tokens_that_cannot_be_renewed_singly_are_refused() -> None:
    work = full_work(FLUX_TOY, 2)
    work[1, 1] = 8
    with pytest.raises(PlanError, match=r"step 1, transformer_blocks.0.ff: keep=8: its tokens cannot be renewed"):
        lower_plan(plan_of(FLUX_TOY, work), FLUX_TOY)


def test_a_plan_of_another_number_of_sites_is_refused() -> None:
    with pytest.raises(PlanError, match="the plan decides about 9 sites, nested has 6"):
        lower_plan(plan_of(TOY, full_work(TOY, 2)), NESTED)


def test_keeps_are_rounded_up_to_the_quantum() -> None:
    work = full_work(TOY, 2)
    work[1, TOY.leaves] = 1
    work[1, :2] = 63
    rounded = lower_plan(plan_of(TOY, work), TOY).programs[1].work
    assert rounded[:2] == (COMPUTE, COMPUTE)
    assert set(rounded[2:8]) == {8}


def test_slots_at_every_step_never_share_bytes() -> None:
    table = simple()
    size = table.slots["transformer_blocks.0.ff"].bytes
    for offsets in table.offsets_by_step:
        assert all(b - a >= size for a, b in itertools.pairwise(sorted(offsets.values())))


def test_the_table_survives_its_file() -> None:
    table = simple()
    assert read_table(table_text(table), "programs.json") == table
    with pytest.raises(PlanError, match=r"x\.json"):
        read_table(b'{"format": 1}', "x.json")
