"""benchmarks/forks.py: which samples noise moves far, and what a sweep says without them."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import numpy as np

from soda_export.models.identity import ModelIdentity, SamplerIdentity
from soda_export.plan.plan import Plan
from soda_export.plan.schedule import Schedule
from soda_export.sweep.rows import RowFile
from soda_export.sweep.unit import Finished, SweepRow

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import forks


def test_samples_that_move_tenfold_are_named() -> None:
    errors = np.full((2, 8), 0.001)
    errors[:, 3], errors[:, 5] = (0.0, 0.03), 0.009
    found = forks.describe(list(range(40, 48)), errors)
    assert found["median"] == 0.001
    assert found["close"] == [{"seed": 43, "share": 0.838, "rmse": [0.0, 0.03]}]


def test_a_sweep_is_read_without_them(tmp_path: Path) -> None:
    """Two planners err twice and three times as much as `best`, but at a sample where it alone ends elsewhere."""
    plan = Plan(ModelIdentity("m", "0", {}, {}), SamplerIdentity("ddim", 2), 1.5, Schedule(np.zeros((2, 1))))
    rows, base = RowFile(tmp_path, {"model": "m"}), np.full(64, 1e-4)
    for planner, factor in (("best", 1.0), ("good", 2.0), ("bad", 3.0)):
        errors = base * factor**2
        errors[7] = 9.0 if planner == "best" else errors[7]
        row = {"planner": planner, "target_flops_ratio": 2.0, "seeds": "100:164", "flops_ratio": 2.0}
        rows.add(Finished(msgspec.convert(row, SweepRow), errors, plan))
    assert forks.compare(tmp_path, set())["2"][0] > 10.0
    without = forks.compare(tmp_path, {107})
    assert without["2"] == without["geometric mean"] == without["typical sample"] == [0.5, 0.5, 0.5]
