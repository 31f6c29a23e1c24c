"""plan.json: read strictly, written compactly, refused where it does not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soda_export.errors import PlanError
from soda_export.models.identity import SamplerIdentity
from soda_export.plan.plan import check_fits, plan_text, read_plan
from tests.plan.test_solve import SPEC
from tests.tiny import make_plan


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.data())
def test_a_plan_survives_its_file(tmp_path_factory: pytest.TempPathFactory, steps: int, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.integers(0, 64), min_size=steps * 8, max_size=steps * 8))
    plan = make_plan(SPEC, np.array(values).reshape(steps, 4, 2))
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    path.write_bytes(plan_text(plan))
    again = read_plan(path)
    assert (again.schedule.kept == plan.schedule.kept).all()
    assert again.model == plan.model
    assert plan_text(again) == plan_text(plan)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=6, max_size=6))
def test_coefficients_survive_their_file(tmp_path_factory: pytest.TempPathFactory, values: list[float]) -> None:
    table = np.array(values, np.float32).reshape(3, 2)
    plan = replace(make_plan(SPEC, np.full((3, 4, 2), 64)), coefficients=table)
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    path.write_bytes(plan_text(plan))
    assert np.array_equal(read_plan(path).coefficients, table)
    assert path.read_text().count("\n") < 35  # a row is a line


def written(tmp_path: Path, **changes: object) -> Path:
    plan = json.loads(plan_text(make_plan(SPEC, np.full((3, 4, 2), 64))))
    plan["steps"] = ["compute", {"attn": "reuse", "ff": ["reuse", 16, 32, "compute"]}, "reuse"]
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({**plan, **changes}))
    return path


def test_shorthands_mean_what_they_say(tmp_path: Path) -> None:
    kept = read_plan(written(tmp_path)).schedule.kept
    assert (kept[0] == 64).all()
    assert kept[1].tolist() == [[0, 0], [0, 16], [0, 32], [0, 64]]
    assert (kept[2] == 0).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": ["compute"]}, "1 steps are listed"),
        ({"steps": ["compute", {"attn": "reuse", "ff": [1, 2]}, "reuse"]}, "step 1, ff: 2 entries for 4 layers"),
        ({"steps": ["compute", {"attn": "reuse", "ff": [99, 0, 1, 1]}, "reuse"]}, "step 1, layer 0, ff: keep=99"),
        ({"steps": ["compute", {"attn": "reuse"}, "reuse"]}, "step 1: module 'ff' is missing"),
        ({"steps": ["compute", {"attn": "reuse", "ff": "reuse", "mlp": "reuse"}, "reuse"]}, "unknown module 'mlp'"),
        ({"steps": ["compute", "skip", "reuse"]}, "skip"),
        ({"version": 4}, "version 4"),
        ({"coefficients": [[1.0, 1.0, 0.0, 0.0]]}, "coefficients: 1 rows for 3 steps"),
        ({"coefficients": [[1.0], [1.0, 2.0], [1.0]]}, "rows of several lengths"),
        ({"coefficients": [[1e39]] * 3}, "beyond float32"),
        ({"coefficients": [["1"]] * 3}, "coefficients"),
        ({"surprise": 1}, "surprise"),
        ({"guidance": "high"}, "guidance"),
    ],
)
def test_what_a_plan_gets_wrong_is_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = written(tmp_path, **changes)
    with pytest.raises(PlanError, match=message) as raised:
        read_plan(path)
    assert str(path) in str(raised.value)


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
