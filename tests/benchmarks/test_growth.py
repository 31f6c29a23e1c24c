"""benchmarks/growth_table.py: exponents of made-up costs; benchmarks/growth_stages.py: the schedules that it builds."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from growth_stages import Point, schedule_of
from growth_table import draw, exponent, table

from soda_export.models.flops import step_flops
from tests.plan.problems import SHAPES

SIZES = [64, 121, 256, 529, 1024]  # not quite doublings


def points_of(costs: list[float]) -> list[dict[str, object]]:
    stages = [{"export": {"cpu_s": cost, "peak_bytes": 1e6 * cost}} for cost in costs]
    return [{"tokens": size, "stages": stage} for size, stage in zip(SIZES, stages, strict=True)]


@pytest.mark.parametrize("wanted", [0.5, 1.0, 1.5, 2.0, 3.0])
def test_the_exponent_is_that_of_what_grows_whatever_the_constant(wanted: float) -> None:
    for constant in (0.0, 10.0):
        costs = [constant + 100 * (size / 1024) ** wanted for size in SIZES]
        assert exponent(SIZES, costs, 0.01) == pytest.approx(wanted, abs=0.011)


@pytest.mark.parametrize("costs", [[1.0, 1.1, 0.9, 1.0, 1.1], [0.001, 0.002, 0.004, 0.008, 0.02]])
def test_what_hardly_grows_has_no_exponent(costs: list[float]) -> None:
    assert exponent(SIZES, costs, 0.05) is None


def test_the_table_shows_what_is_steep_and_the_chart_is_drawn(tmp_path: Path) -> None:
    points = {"tokens": points_of([1.0 + (size / 64) ** 2 for size in SIZES])}
    lines = table(points).splitlines()
    assert lines[0] == "| CPU seconds | tokens 64 to 1024 |"
    assert lines[2] == "| export | 2 to 257: **2.0** |"
    draw(points, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("programs", [2, 4, 16])
def test_schedules_have_as_many_programs_as_are_asked_for_and_all_but_one_cost_much_the_same(programs: int) -> None:
    schedule = schedule_of(SHAPES, Point(steps=32, programs=programs))
    assert schedule.num_kinds == programs
    assert schedule.anchors == tuple(range(0, 32, 2))
    costs = [step_flops(SHAPES, 2, work.tolist()) for work in schedule.work[1::2]]
    assert np.ptp(costs) < 0.5 * np.mean(costs)
