"""The arena: within its bounds for values of any sizes, and proved by a verifier that shares no code with it."""

from __future__ import annotations

import time

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from soda_export.errors import InternalError
from soda_export.lower.arena import layout_arena, padded_bytes
from soda_export.lower.lower import lower_plan
from soda_export.lower.program import ArenaLayout, CachedValue, ProgramTable, Slot
from soda_export.lower.verify import verify_table
from soda_export.models.decisions import COMPUTE
from soda_export.plan.planners import PLANNERS
from soda_export.plan.planners.orders import limit_orders
from soda_export.plan.problem import Target
from soda_export.plan.schedule import Schedule
from tests.lower.test_lower import Case, cases
from tests.plan.problems import FLUX, FLUX_TOY, TOY, flux_spec, plan_of, problem

Spans = list[tuple[int, int, int]]
spans = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 6), st.integers(1, 9)), max_size=30)


def values_of(given: Spans) -> tuple[list[CachedValue], list[int]]:
    """(first, length - 1, size in units) as values of slots of their own."""
    ordered = sorted(given)
    values = [CachedValue(Slot(f"s{i}"), first, first + more) for i, (first, more, _) in enumerate(ordered)]
    return values, [256 * size for _, _, size in ordered]


def peak(values: list[CachedValue], sizes: list[int]) -> int:
    return max(
        (sum(s for v, s in zip(values, sizes, strict=True) if v.first <= t <= v.last) for t in range(30)), default=0
    )


def overlap(values: list[CachedValue], sizes: list[int], layout: ArenaLayout) -> bool:
    placed = list(zip(values, sizes, layout.offsets, strict=True))
    return any(
        a.first <= b.last and b.first <= a.last and x < y + t and y < x + s
        for i, (a, s, x) in enumerate(placed)
        for b, t, y in placed[:i]
    )


@settings(max_examples=300, deadline=None)
@given(spans)
def test_values_alive_at_the_same_step_never_share_bytes(given_spans: Spans) -> None:
    values, sizes = values_of(given_spans)
    layout = layout_arena(values, sizes, sum(sizes))
    assert not overlap(values, sizes, layout)
    assert layout.lower_bound_bytes == peak(values, sizes)
    assert layout.lower_bound_bytes <= layout.bytes <= layout.naive_bytes
    assert layout.bytes == max((o + s for o, s in zip(layout.offsets, sizes, strict=True)), default=0)
    assert all(offset % 256 == 0 for offset in layout.offsets)


def test_random_values_are_nearly_all_placed_at_the_lower_bound() -> None:
    rng, gaps = np.random.default_rng(0), []
    for _ in range(300):
        count = int(rng.integers(1, 31))
        columns = (rng.integers(0, limit, count) for limit in (21, 7, 9))
        values, sizes = values_of([(int(a), int(b), 1 + int(c)) for a, b, c in zip(*columns, strict=True)])
        gaps.append(layout_arena(values, sizes, sum(sizes)).gap)
    print(f"{np.mean(np.array(gaps) > 0):.0%} above the bound, by {np.max(gaps):.0%} at worst")
    assert np.mean(gaps) < 0.01
    assert np.max(gaps) < 0.25


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 6), st.just(4)), max_size=40))
def test_equal_sizes_reach_the_lower_bound(given_spans: Spans) -> None:
    values, sizes = values_of(given_spans)
    assert layout_arena(values, sizes, sum(sizes)).bytes == peak(values, sizes)


@settings(max_examples=200, deadline=None)
@given(cases())
def test_the_arena_is_within_the_bounds_for_any_plan(case: Case) -> None:
    spec, schedule = case
    arena = lower_plan(plan_of(spec, schedule.work), spec).arena
    assert arena.lower_bound_bytes <= arena.bytes <= arena.naive_bytes
    if spec is TOY:
        assert arena.gap <= 0.05


def flux_schedules() -> dict[str, Schedule]:
    """Of the FLUX-like model: planners', and what a search may come to."""
    case = problem(FLUX, "flow-match", 28, 1.0)
    made = {name: PLANNERS[name](case, Target(10)) for name in ("soda", "uniform", "taylorseer", "dp-forecast")}
    made["soda, ratio"] = PLANNERS["soda"](case, Target(flops_ratio=2.3))
    made["smoothcache"] = PLANNERS["smoothcache"](case, Target(flops_ratio=2.0))
    rng = np.random.default_rng(0)
    for order in (0, 2):
        schedule = Schedule.at_anchors(FLUX, 28, (0, 1, 2, 6, 11, 17, 23), order)
        for step in (4, 9, 14, 20, 25):
            some = rng.random(len(FLUX.leaves)) < rng.choice([0.2, 0.5, 0.8])
            schedule.work[step, np.array(FLUX.leaves)[some]] = COMPUTE
        made[f"partial steps, order {order}"] = limit_orders(schedule)
    kinds = Schedule.full(FLUX, 28)
    for i, numbers in enumerate(FLUX.kinds.values()):
        for t in range(1, 28):
            if (t + i) % (2 + i):
                kinds.work[t, list(numbers)] = 0
    made["a period for each kind"] = Schedule.of(FLUX, kinds.work)
    return made


def test_joint_and_single_blocks_fit_within_ten_percent_of_the_lower_bound() -> None:
    """19 blocks with outputs of 4096 and 512 tokens, 38 of 4608: three sizes of slots."""
    for name, schedule in flux_schedules().items():
        table = lower_plan(plan_of(FLUX, schedule.work, "flow-match", 1.0), FLUX, "bf16")
        print(f"{name}: {table.arena}")
        assert table.arena.gap <= 0.10, name
        assert table.arena.bytes <= table.arena.naive_bytes


def test_thousands_of_values_are_placed_in_seconds() -> None:
    """250 steps and 150 sites, every one with anchors of its own."""
    spec = flux_spec("long", 30, 60, 64, 16, 8)
    rng = np.random.default_rng(1)
    work = np.where(rng.random((250, len(spec.sites))) < 0.3, COMPUTE, 0)
    work[0], work[:, spec.stack] = COMPUTE, COMPUTE
    before = time.process_time()
    table = lower_plan(plan_of(spec, work), spec)
    taken = time.process_time() - before
    print(f"{len(table.values)} values in {taken:.1f} s, {table.arena}")
    assert len(table.values) > 8000
    assert taken < 20
    assert table.arena.gap <= 0.10


def test_the_gap_is_printed() -> None:
    text = str(ArenaLayout((), 2_200_000, 2_000_000, 5_000_000))
    assert text == "2.20 MB a sample, 10.0 % above the lower bound of 2.00, naive 5.00"
    assert ArenaLayout((), 0, 0, 0).gap == 0.0
    assert [padded_bytes(n) for n in (1, 256, 257)] == [256, 256, 512]


def moved(table: ProgramTable, value: int, offset: int) -> ProgramTable:
    offsets = list(table.arena.offsets)
    offsets[value] = offset
    arena = msgspec.structs.replace(table.arena, offsets=tuple(offsets))
    return msgspec.structs.replace(table, arena=arena)


@settings(max_examples=200, deadline=None)
@given(cases(), st.data())
def test_the_verifier_finds_a_value_moved_onto_a_live_one(case: Case, data: st.DataObject) -> None:
    spec, schedule = case
    table = lower_plan(plan_of(spec, schedule.work), spec)
    sizes = [table.slots[str(value.slot)].bytes for value in table.values]
    pairs = [
        (i, j)
        for i, victim in enumerate(table.values)
        for j, other in enumerate(table.values)
        if i != j and victim.first < other.first <= victim.last and other.slot != victim.slot
    ]
    assume(pairs)
    victim, other = data.draw(st.sampled_from(pairs))
    # any place that touches the victim's bytes, if only with one end
    low, high = table.arena.offsets[victim] - sizes[other] + 256, table.arena.offsets[victim] + sizes[victim] - 256
    place = data.draw(st.integers(max(0, low) // 256, high // 256)) * 256
    with pytest.raises(InternalError):
        verify_table(moved(table, other, place))


def test_the_verifier_finds_what_leaves_the_arena_its_alignment_or_its_size() -> None:
    work = Schedule.at_anchors(FLUX_TOY, 6, (0, 3)).work
    table = lower_plan(plan_of(FLUX_TOY, work), FLUX_TOY)
    verify_table(table)
    for offset in (-256, table.arena.bytes, table.arena.offsets[0] + 8):
        with pytest.raises(InternalError, match=r"leaves the arena|share bytes|those bytes hold"):
            verify_table(moved(table, 0, offset))
    name = "transformer_blocks.0.attn#1"
    for size in (table.slots[name].bytes - 256, table.slots[name].bytes + 256, 100):
        slots = {**table.slots, name: msgspec.structs.replace(table.slots[name], bytes=size)}
        with pytest.raises(InternalError, match=r"slot transformer_blocks\.0\.attn#1"):
            verify_table(msgspec.structs.replace(table, slots=slots))


def test_the_verifier_finds_a_read_of_what_was_never_written() -> None:
    table = lower_plan(plan_of(TOY, Schedule.at_anchors(TOY, 4, (0, 2)).work), TOY)
    programs = list(table.programs)
    programs[0] = msgspec.structs.replace(programs[0], writes=programs[0].writes[1:])
    values = [value for value in table.values if value.slot != table.programs[0].writes[0]]
    offsets = [o for v, o in zip(table.values, table.arena.offsets, strict=True) if v in values]
    arena = msgspec.structs.replace(table.arena, offsets=tuple(offsets))
    broken = msgspec.structs.replace(table, programs=tuple(programs), values=tuple(values), arena=arena)
    with pytest.raises((InternalError, KeyError)):
        verify_table(broken)
