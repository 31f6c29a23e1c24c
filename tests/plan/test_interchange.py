"""Other tools' schedules: read strictly, written where they can say it, and refused with one line where not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soda_export.errors import PlanError
from soda_export.models.decisions import COMPUTE
from soda_export.models.identity import identify
from soda_export.plan.interchange import READERS, WRITERS, Tool
from soda_export.plan.plan import plan_text
from soda_export.plan.planners import PLANNERS
from soda_export.plan.problem import Problem, Target
from soda_export.plan.schedule import Schedule
from tests.plan.problems import DIGITS, DIT_XL, FLUX_TOY, SHAPES, at, full_work, plan_of

SAMPLES = Path(__file__).parents[1] / "data/smoothcache"
XL, MODEL, TEXT_MODEL = identify(DIT_XL), identify(DIGITS), identify(SHAPES)


@pytest.mark.parametrize("name", sorted(path.name for path in SAMPLES.glob("*.json")))
def test_a_released_schedule_survives_reading_and_writing(name: str) -> None:
    content = (SAMPLES / name).read_bytes()
    schedule = READERS["smoothcache"](content, XL, int(name[:2]), "computed")
    assert json.loads(WRITERS["smoothcache"](schedule, XL)) == json.loads(content)


def test_lists_say_which_module_computes_at_which_step() -> None:
    content = b'{"attn": [1, 0, 1], "mlp-2": [1, 1, 0], "mlp": [1, 0, 0]}'
    work = READERS["smoothcache"](content, MODEL, 3, "computed").work
    attention, feed_forward = work[:, at(DIGITS, "attn")], work[:, at(DIGITS, "ff")]
    assert (attention == np.array([COMPUTE, 0, COMPUTE])[:, None]).all()
    assert feed_forward[:, 2].tolist() == [COMPUTE, COMPUTE, 0]  # a block's own list goes first
    assert (np.delete(feed_forward, 2, axis=1) == np.array([COMPUTE, 0, 0])[:, None]).all()
    assert (work[:, DIGITS.stack] == COMPUTE).all()


def test_components_without_a_list_are_computed_at_every_step() -> None:
    work = READERS["smoothcache"](b'{"attn1": [1, 0]}', TEXT_MODEL, 2, "computed").work
    assert (work[1, at(SHAPES, "attn")] == 0).all()
    assert (np.delete(work[1], at(SHAPES, "attn")) == COMPUTE).all()


def test_kinds_that_other_models_have_go_by_their_own_name() -> None:
    model = identify(FLUX_TOY)
    content = b'{"attn": [1, 0], "ff_context-1": [1, 0], "single": [1, 1]}'
    schedule = READERS["smoothcache"](content, model, 2, "computed")
    assert np.flatnonzero(schedule.work[1] == 0).tolist() == [0, 3, 5]
    written = json.loads(WRITERS["smoothcache"](schedule, model))
    assert written == {
        "attn": [1, 0], "mlp": [1, 1], "ff_context-0": [1, 1], "ff_context-1": [1, 0], "single": [1, 1],
    }  # fmt: skip
    with pytest.raises(PlanError, match="'cross_attn': not a component of the model; it has attn, attn1, mlp, ff,"):
        READERS["smoothcache"](b'{"cross_attn": [1, 0]}', model, 2, "computed")


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Of SHAPES: whatever computes or reuses its leaf sites."""
    work = full_work(SHAPES, draw(st.integers(1, 8)))
    shape = (len(work) - 1, len(SHAPES.leaves))
    size = int(np.prod(shape))
    ones = np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)), bool).reshape(shape)
    work[1:, SHAPES.leaves] = np.where(ones, COMPUTE, 0)
    return Schedule(work)


@settings(deadline=None, max_examples=30)
@given(schedules())
def test_what_computes_or_reuses_survives_a_smoothcache_file(schedule: Schedule) -> None:
    content = WRITERS["smoothcache"](schedule, TEXT_MODEL)
    assert (READERS["smoothcache"](content, TEXT_MODEL, schedule.steps, "computed").work == schedule.work).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"attn": [1, 0], "mlp": [1, 0, 0]}', "attn: has 2 steps, the sampler 3; pass --steps 2"),
        (b'{"attn": [1, 0, 2]}', "attn: entry 2 is 2; only 0"),
        (b'{"attn": [1, 0, true]}', "attn: entry 2 is True; only 0"),
        (b'{"attn": [0, 1, 1]}', "attn: entry 0 is 0, but nothing is cached"),
        (b'{"attn": "101"}', "attn: expected a list"),
        (b'{"conv": [1, 0, 0]}', "'conv': not a component of the model; it has attn, attn1, mlp, ff"),
        (b'{"cross_attn": [1, 0, 0]}', "'cross_attn': not a component"),
        (b'{"attn-6": [1, 0, 0]}', "'attn-6': the model has blocks 0 .. 5"),
        (b'{"attn-06": [1, 0, 0]}', "not a component"),
        (b'{"mlp": [1, 0, 0], "ff": [1, 0, 0]}', "'ff' and 'mlp' are the same module"),
        (b'{"attn": [1, 0, 0], "attn": [1, 1, 0]}', "twice"),
        (b"{}", "expected a JSON object of lists"),
        (b"[1, 0, 0]", "expected a JSON object of lists"),
        (b"\xff", "not valid JSON"),
    ],
)
def test_a_smoothcache_file_that_says_something_else_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(PlanError) as raised:
        READERS["smoothcache"](content, MODEL, 3, "computed")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "content",
    [
        b"1101\n", b"1,1,0,1", b"[1, 1, 0, 1]", b'"1101"', b"- 1\n- 1\n- 0\n- 1\n",
    ],
)  # fmt: skip
def test_a_step_mask_is_read_in_every_form(content: bytes) -> None:
    work = READERS["cache-dit"](content, MODEL, 4, "computed").work
    assert (work[:, DIGITS.leaves] == np.array([COMPUTE, COMPUTE, 0, COMPUTE])[:, None]).all()
    assert (work[:, DIGITS.stack] == COMPUTE).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"110", "has 3 steps, the sampler 4; pass --steps 3"),
        (b"0111", "entry 0 is 0"),
        (b"[1, 1, 0, 3]", "entry 3 is 3"),
        (b"mask", "'mask': no mask of cache-dit's; there are slow, medium, fast, ultra"),
        (b"3", "expected digits like 1101"),
        (b'{"cache_config": {}}', "steps_computation_mask is missing: without it residual_diff_threshold decides"),
        (b'{"cache_config": 3}', "cache_config: expected keys"),
    ],
)
def test_a_step_mask_that_says_something_else_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        READERS["cache-dit"](content, MODEL, 4, "computed")


def test_a_step_mask_is_written_as_a_configuration() -> None:
    schedule = Schedule.at_anchors(DIGITS, 6, (0, 1, 4))
    content = WRITERS["cache-dit"](schedule, MODEL)
    section = json.loads(content)["cache_config"]
    assert section["steps_computation_mask"] == [1, 1, 0, 0, 1, 0]
    assert section["num_inference_steps"] == 6
    read = READERS["cache-dit"](content, MODEL, 6, "computed").work
    first = [k for k, name in enumerate(MODEL.names) if name.startswith("transformer_blocks.0.")]
    assert (read[:, first] == COMPUTE).all()  # cache-dit computes one block at least in every step
    rest = np.delete(np.arange(len(MODEL.names)), first)
    assert (read[:, rest] == schedule.work[:, rest]).all()


@pytest.mark.parametrize(
    ("planner", "message"),
    [
        ("toca", r"step 1, transformer_blocks.0.attn2: computes \d+ of 64 tokens; a [\w-]+ file can only say"),
        ("duca", r"step 2: all blocks are skipped; a [\w-]+ file can only reuse modules"),
        ("taylorseer", r"step 2, transformer_blocks.0.attn1: is forecast at order 1; a [\w-]+ file can only say"),
    ],
)
@pytest.mark.parametrize("tool", WRITERS)
def test_what_a_format_cannot_say_is_refused(tool: Tool, planner: str, message: str) -> None:
    schedule = PLANNERS[planner](Problem(SHAPES, "dpm-solver++", 20, 4.5), Target())
    with pytest.raises(PlanError, match=message):
        WRITERS[tool](schedule, TEXT_MODEL)


def test_a_mask_cannot_say_that_only_some_modules_compute() -> None:
    work = full_work(DIGITS, 3)
    work[2, at(DIGITS, "attn")] = 0
    with pytest.raises(PlanError, match="step 2: some modules compute and others reuse"):
        WRITERS["cache-dit"](Schedule(work), MODEL)


def test_export_writes_the_file_and_names_the_plan_in_a_refusal(tmp_path: Path) -> None:
    from soda_export.cli.export import export

    schedule = Schedule.at_anchors(DIGITS, 6, (0, 1, 4))
    path = tmp_path / "a.plan.json"
    path.write_bytes(plan_text(plan_of(DIGITS, schedule.work)))
    export(path, to="smoothcache")
    written = json.loads((tmp_path / "a.plan.smoothcache.json").read_text())
    assert written == {"attn": [1, 1, 0, 0, 1, 0], "mlp": [1, 1, 0, 0, 1, 0]}
    schedule.work[2, DIGITS.leaves] = 8
    path.write_bytes(plan_text(plan_of(DIGITS, schedule.work)))
    with pytest.raises(PlanError, match=r"a\.plan\.json: step 2, transformer_blocks.0.attn1"):
        export(path, to="cache-dit", out=tmp_path / "mask.json")
    assert not (tmp_path / "mask.json").exists()
