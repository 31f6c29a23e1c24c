"""One model's plan on another: benchmarks/stretch.py, and the schedule of benchmarks/realization.py."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from realization import half_anchors
from stretch import stretched

from soda_export.errors import PlanError
from soda_export.lower.lower import lower_plan
from soda_export.models.decisions import COMPUTE, IDLE
from soda_export.models.identity import SamplerIdentity, identify
from soda_export.models.load import load_model
from soda_export.models.spec import STACK, ModelSpec
from soda_export.plan.plan import Plan
from soda_export.plan.schedule import Schedule
from tests.tiny import TOKENS, forecasting_schedule, make_plan, save_tiny_model


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """A DiT of 5 layers and 64 tokens."""
    return load_model(str(save_tiny_model(tmp_path_factory.mktemp("larger"), num_layers=5, sample_size=16))).spec


def lowered_ratio(spec: ModelSpec, schedule: Schedule) -> float:
    """FLOPs ratio of the schedule, which must be one that can be played."""
    plan = Plan(identify(spec), SamplerIdentity("ddim", schedule.steps), 1.5, schedule)
    return lower_plan(plan, spec).flops_ratio


@pytest.mark.parametrize("steps", [4, 10, 23])
def test_a_stretched_plan_does_the_same_at_each_kind_and_depth(
    steps: int, tiny_model: Path, tiny_pixart: Path, larger: ModelSpec
) -> None:
    for folder, modules in ((tiny_model, 2), (tiny_pixart, 3)):
        grid = forecasting_schedule(modules=modules)
        source = load_model(str(folder)).spec
        plan = make_plan(source, grid.kept, stack=grid.stack)
        schedule = stretched(plan, larger, steps)
        assert lowered_ratio(larger, schedule) > 1.0
        if steps != plan.schedule.steps:
            continue
        for kind, layers in larger.kinds.items():
            theirs = plan.schedule.work[:, [source.kinds[kind][i * len(source.kinds[kind]) // len(layers)]
                                            for i in range(len(layers))]]  # fmt: skip
            pruned = (theirs > 0) & (theirs < COMPUTE)
            assert np.array_equal(schedule.work[:, list(layers)], np.where(pruned, theirs * 64 // TOKENS, theirs))


def test_forecasts_have_the_history_that_their_order_needs(tiny_model: Path, larger: ModelSpec) -> None:
    spec = load_model(str(tiny_model)).spec
    work = Schedule.full(spec, 8).work
    work[4:6, spec.stack] = -2
    plan = Plan(identify(spec), SamplerIdentity("ddim", 8), 1.5, Schedule.of(spec, work))
    schedule = stretched(plan, larger, 4)  # one full step of each two is left
    assert schedule.work[2, larger.stack] == -1
    assert (np.delete(schedule.work[2], larger.stack) == IDLE).all()
    lowered_ratio(larger, schedule)


def test_a_plan_without_the_kind_is_refused(tiny_model: Path, tiny_pixart: Path) -> None:
    spec = load_model(str(tiny_model)).spec
    plan = Plan(identify(spec), SamplerIdentity("ddim", 4), 1.5, Schedule.full(spec, 4))
    with pytest.raises(PlanError, match="which has no cross_attn, but attn, ff, stack"):
        stretched(plan, load_model(str(tiny_pixart)).spec, 4)


def test_half_of_the_steps_are_anchors_and_a_quarter_prunes_feed_forwards(larger: ModelSpec) -> None:
    schedule = half_anchors(larger, 8, 16)
    assert schedule.anchors == (0, 2, 4, 6)
    for kind, layers in larger.kinds.items():
        expected = {"attn": 0, "ff": 16, STACK: COMPUTE}[kind]
        assert (schedule.work[1::4, list(layers)] == expected).all()
        assert (schedule.work[3::4, list(layers)] == min(expected, COMPUTE if kind == STACK else 0)).all()
    assert 1.5 < lowered_ratio(larger, schedule) < 2.5
