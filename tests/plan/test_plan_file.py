"""plan.json: read strictly, written compactly, refused where it does not fit; older versions mean what they meant."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soda_export.errors import PlanError
from soda_export.lower.lower import lower_plan
from soda_export.models.decisions import COMPUTE, IDLE
from soda_export.models.identity import SamplerIdentity, identify, same_model
from soda_export.models.spec import ModelSpec
from soda_export.plan.plan import Plan, check_fits, plan_text, read_plan
from soda_export.plan.schedule import Schedule
from tests.plan.problems import NESTED, SHAPES, at, blocks_spec, full_work, plan_of
from tests.plan.problems import TOY as SPEC

WORK = st.sampled_from([COMPUTE, COMPUTE, 0, 0, -1, -2, 8])


@st.composite
def schedules(draw: st.DrawFn, spec: ModelSpec) -> Schedule:
    steps, sites = draw(st.integers(1, 6)), len(spec.sites)
    work = np.array(draw(st.lists(WORK, min_size=steps * sites, max_size=steps * sites))).reshape(steps, sites)
    words = draw(st.lists(st.sampled_from([None, COMPUTE, 0, -1]), min_size=steps, max_size=steps))
    for row, word in zip(work, words, strict=True):
        row[:] = row if word is None else word
    tokens = np.array([site.tokens for site in spec.sites])
    return Schedule.of(spec, np.where((work == 8) & (tokens == 0), 0, work))


@settings(max_examples=60, deadline=None)
@given(st.one_of(schedules(SPEC).map(lambda s: (SPEC, s)), schedules(NESTED).map(lambda s: (NESTED, s))))
def test_a_plan_survives_its_file(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[ModelSpec, Schedule]
) -> None:
    spec, schedule = case
    plan = plan_of(spec, schedule.work)
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    path.write_bytes(plan_text(plan))
    again = read_plan(path)
    assert (again.schedule.work == plan.schedule.work).all()
    assert again.model == plan.model
    assert plan_text(again) == plan_text(plan)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=6, max_size=6))
def test_coefficients_survive_their_file(tmp_path_factory: pytest.TempPathFactory, values: list[float]) -> None:
    table = np.array(values, np.float32).reshape(3, 2)
    plan = replace(plan_of(SPEC, full_work(SPEC, 3)), coefficients=table)
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    path.write_bytes(plan_text(plan))
    assert np.array_equal(read_plan(path).coefficients, table)
    assert path.read_text().count("\n") < 60  # a row is a line


def steps_of(plan: Plan) -> list[object]:
    steps: list[object] = json.loads(plan_text(plan))["steps"]
    return steps


def test_a_step_is_written_as_short_as_it_goes() -> None:
    work = full_work(SPEC, 6)
    work[1, SPEC.leaves] = 0
    work[2, SPEC.leaves] = -2
    work[3, SPEC.stack] = -1
    work[4, at(SPEC, "attn")] = 0
    work[5, at(SPEC, "ff")[1]] = 8
    assert steps_of(plan_of(SPEC, Schedule.of(SPEC, work).work)) == [
        "compute", "reuse", "reuse2", "reuse_stack1", {"attn": "reuse", "ff": "compute"},
        {"attn": "compute", "ff": ["compute", 8, "compute", "compute"]},
    ]  # fmt: skip
    nested = full_work(NESTED, 2)
    nested[1, 2] = 0  # the block, so that what it contains is idle
    assert steps_of(plan_of(NESTED, Schedule.of(NESTED, nested).work))[1] == {
        "attn": ["idle", "compute"], "ff": "idle", "block": ["reuse", "compute"], "resnet": "compute",
    }  # fmt: skip


def written(tmp_path: Path, **changes: object) -> Path:
    plan = json.loads(plan_text(plan_of(SPEC, full_work(SPEC, 3))))
    plan["steps"] = ["compute", {"attn": "reuse", "ff": ["reuse", 16, 32, "compute"]}, "reuse"]
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({**plan, **changes}))
    return path


def test_shorthands_mean_what_they_say(tmp_path: Path) -> None:
    steps = ["compute", {"attn": "reuse", "ff": ["reuse", 16, 32, "compute"]}, {"attn": "reuse", "ff": 4 * ["reuse1"]}]
    work = read_plan(written(tmp_path, steps=steps)).schedule.work
    assert (work[0] == COMPUTE).all()
    assert (work[1:, at(SPEC, "attn")] == 0).all()
    assert work[1, at(SPEC, "ff")].tolist() == [0, 16, 32, COMPUTE]
    assert work[2, at(SPEC, "ff")].tolist() == [-1] * 4
    assert (work[:, SPEC.stack] == COMPUTE).all()  # where nothing is said of the stack


def test_a_reused_stack_leaves_every_other_site_idle(tmp_path: Path) -> None:
    steps = ["compute", "reuse_stack2", {"attn": "compute", "ff": "reuse", "stack": "reuse1"}]
    work = read_plan(written(tmp_path, steps=steps)).schedule.work
    assert work[1:, SPEC.stack].tolist() == [-2, -1]
    assert (work[1:, SPEC.leaves] == IDLE).all()


MODEL = json.loads(msgspec.json.encode(identify(SPEC)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": ["compute"]}, "1 steps are listed"),
        ({"steps": ["compute", {"attn": "reuse", "ff": [1, 2]}, "reuse"]}, "step 1, ff: 2 entries for 4 sites"),
        (
            {"steps": ["compute", {"attn": "reuse", "ff": ["reuse", 5000, 1, 1]}, "reuse"]},
            'step 1, transformer_blocks.1.ff: keep=5000 is outside 1 .. 64 tokens; use "reuse" for 0',
        ),
        ({"steps": ["compute", {"attn": "reuse", "ff": [0, 1, 1, 1]}, "reuse"]}, "transformer_blocks.0.ff: keep=0"),
        ({"steps": ["compute", {"attn": "reuse", "ff": [True] * 4}, "reuse"]}, "got `bool`"),
        (
            {"steps": ["compute", {"attn": "reuse", "ff": "reuse", "stack": [8]}, "reuse"]},
            "step 1, transformer_blocks.3: keep=8: its tokens cannot be renewed singly",
        ),
        ({"steps": ["compute", {"attn": "reuse"}, "reuse"]}, "step 1: kind 'ff' is missing"),
        ({"steps": ["compute", {"attn": "reuse", "ff": "reuse", "mlp": "reuse"}, "reuse"]}, "unknown kind 'mlp'"),
        ({"steps": ["compute", "omit", "reuse"]}, "omit"),
        ({"version": 5}, "version 5, expected 'soda-plan' version 4"),
        ({"version": 2}, "unknown field `sites`"),
        ({"format": "other"}, "format 'other' version 4"),
        ({"coefficients": [[1.0, 1.0, 0.0, 0.0]]}, "coefficients: 1 rows for 3 steps"),
        ({"coefficients": [[1.0], [1.0, 2.0], [1.0]]}, "rows of several lengths"),
        ({"coefficients": [[1e39]] * 3}, "beyond float32"),
        ({"coefficients": [["1"]] * 3}, "coefficients"),
        ({"surprise": 1}, "surprise"),
        ({"guidance": "high"}, "guidance"),
        ({"model": {**MODEL, "sites": {}, "kinds": {}}}, "needs sites"),
        ({"model": {**MODEL, "kinds": {**MODEL["kinds"], "ff": [1, 3, 5, 5]}}}, "must number the sites 0 .. 8"),
        ({"model": {**MODEL, "kinds": {**MODEL["kinds"], "ff": [7, 5, 3, 1]}}}, "rising order"),
        ({"model": {**MODEL, "sites": {**MODEL["sites"], "ff": ["a", "b", "c", "c"]}}}, "occurs twice"),
        ({"model": {**MODEL, "sites": {**MODEL["sites"], "ff": ["a"]}}}, "as many names"),
        ({"model": {**MODEL, "tokens": {"mlp": 64}}}, "model.tokens: 'mlp'"),
        ({"model": {**MODEL, "tokens": {"ff": [64]}}}, "model.tokens: 'ff'"),
        ({"model": {**MODEL, "tokens": {"ff": 1 << 24}}}, "model.tokens: ff: must be"),
    ],
)
def test_what_a_plan_gets_wrong_is_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = written(tmp_path, **changes)
    with pytest.raises(PlanError) as raised:
        read_plan(path)
    assert message in str(raised.value)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_plan_for_something_else_is_refused(tmp_path: Path) -> None:
    plan = read_plan(written(tmp_path))
    check_fits(plan, SPEC, SamplerIdentity("ddim", 3), 1.5)
    for sampler, guidance, message in [
        (SamplerIdentity("ddpm", 3), 1.5, "ddpm"),
        (SamplerIdentity("ddim", 4), 1.5, "4 steps"),
        (SamplerIdentity("ddim", 3, eta=1.0), 1.5, "eta"),
        (SamplerIdentity("ddim", 3, guided_channels=3), 1.5, "3 channels guided"),
        (SamplerIdentity("ddim", 3), 4.0, "guidance"),
    ]:
        with pytest.raises(PlanError, match=message):
            check_fits(plan, SPEC, sampler, guidance)


DOCUMENT = (Path(__file__).parents[2] / "docs/PLAN.md").read_text()


def test_the_documents_example_is_a_plan(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(DOCUMENT.split("```json\n")[1].split("```")[0])
    plan = read_plan(path)
    spec = blocks_spec("toy", "dit", layers=3, tokens=16, width=16, heads=2, ff_width=64, hash=plan.model.hash)
    check_fits(plan, spec, SamplerIdentity("ddim", 6), 1.5)
    assert lower_plan(plan, spec).num_engines == 5
    assert "Five engines" in DOCUMENT


def test_the_documents_script_makes_a_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("digits.json").write_bytes(msgspec.json.encode(msgspec.to_builtins(SPEC)))
    exec(compile(DOCUMENT.split("```python\n")[1].split("```")[0], "PLAN.md", "exec"), {})
    plan = read_plan(Path("plan.json"))
    check_fits(plan, SPEC, SamplerIdentity("ddim", 50), 1.5)
    assert plan.anchors == tuple(range(0, 50, 3))


def old_plan(tmp_path: Path, version: int, modules: list[str], steps: list[object]) -> Path:
    """As version 3 wrote it; 4 layers of 64 tokens."""
    model = {"name": "toy", "hash": "0" * 64, "num_layers": 4, "modules": modules, "num_tokens": 64}
    sampler = {"name": "ddim", "steps": len(steps), "eta": 0.0, "guided_channels": 0}
    plan = {"format": "soda-plan", "version": version, "model": model, "sampler": sampler, "guidance": 1.5}
    path = tmp_path / "old.json"
    path.write_text(json.dumps({**plan, "steps": steps, "token_score": "mean", "map_hash": "", "made_by": ""}))
    return path


@pytest.mark.parametrize("version", [1, 2, 3])
def test_older_plans_say_the_same_of_the_sites_of_a_dit(tmp_path: Path, version: int) -> None:
    steps: list[object] = [
        "compute", {"attn": "reuse", "ff": [8, "reuse", 64, "compute"]}, "reuse_stack", "reuse1",
    ]  # fmt: skip
    plan = read_plan(old_plan(tmp_path, version, ["attn", "ff"], steps))
    check_fits(plan, SPEC, SamplerIdentity("ddim", 4), 1.5)
    work = plan.schedule.work
    assert plan.anchors == (0,)
    assert work[1, at(SPEC, "attn")].tolist() == [0] * 4
    assert work[1, at(SPEC, "ff")].tolist() == [8, 0, COMPUTE, COMPUTE]  # 64 of 64 tokens meant everything
    assert work[2].tolist() == [IDLE] * 8 + [0]
    assert work[3].tolist() == [-1] * 8 + [COMPUTE]


def test_older_plans_say_the_same_of_the_sites_of_a_pixart(tmp_path: Path) -> None:
    steps: list[object] = ["compute", {"attn": "reuse", "cross_attn": [8, "reuse", 8, "compute"], "ff": "reuse"}]
    plan = read_plan(old_plan(tmp_path, 3, ["attn", "cross_attn", "ff"], steps))
    names = [plan.model.names[k] for k in (0, 1, 2, 3, 12)]
    assert names == [
        "transformer_blocks.0.attn1", "transformer_blocks.0.attn2", "transformer_blocks.0.ff",
        "transformer_blocks.1.attn1", "transformer_blocks.3",
    ]  # fmt: skip
    assert plan.schedule.work[1].tolist() == [0, 8, 0, 0, 0, 0, 0, 8, 0, 0, COMPUTE, 0, COMPUTE]
    assert not same_model(plan.model, identify(SHAPES))  # of 6 layers


@pytest.mark.parametrize(
    ("modules", "steps", "message"),
    [
        (["attn", "mlp"], ["compute"], "modules attn, mlp: not those of a DiT or PixArt"),
        (["attn", "attn"], ["compute"], "modules attn, attn"),
        (["attn", "ff"], ["compute", {"attn": "reuse", "ff": [65, 1, 1, 1]}], "step 1, transformer_blocks.0.ff: keep"),
        (["attn", "ff"], ["compute", {"attn": "idle", "ff": "reuse"}], "idle"),
    ],
)
def test_what_an_older_plan_gets_wrong_is_named(
    tmp_path: Path, modules: list[str], steps: list[object], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        read_plan(old_plan(tmp_path, 3, modules, steps))
