"""The rules of benchmarks/peers: intervals, which settings a random model is played with, plan shapes carried over."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from peers.measure import Seen
from peers.rows import make_rows, median_interval, verdicts
from peers.settings import settings_like
from peers.systems import System

FBC, OURS = "diffusers FirstBlockCache", "soda-export ONNX Runtime"


def _seen(system: str, setting: str, seconds: float, ratio: float, rmse: float, **more: Any) -> Seen:
    made = System(system, setting, "fp32", "", "", flops_ratio=ratio, baseline=more.pop("baseline", ""))
    return Seen(made, [seconds], ratio, rmse=rmse, **more)


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    assert median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)  # too few: the extremes
    drawn = np.random.default_rng(0).normal(size=(2000, 15))
    intervals = [median_interval(list(row)) for row in drawn]
    assert 0.95 <= np.mean([low <= 0.0 <= high for low, high in intervals]) < 0.985


def test_a_verdict_leaves_out_faster_peers_that_err_more() -> None:
    rows = make_rows("toy", [
        _seen(OURS, "everything computed", 4.0, 1.0, 0.0), _seen(FBC, "exact", 3.0, 1.5, 0.1),
        _seen(OURS, "plan", 1.0, 2.0, 0.1, baseline=f"{OURS} | everything computed | fp32"),
        _seen(FBC, "rough", 0.5, 4.0, 0.2),
    ])  # fmt: skip
    (verdict,) = verdicts(rows)
    assert (verdict.peer, verdict.ratio) == (f"{FBC} | exact | fp32", 3.0)
    assert next(row for row in rows if row.setting == "plan").realization == pytest.approx(2.0)


def test_a_random_model_plays_the_setting_that_saves_most_without_erring_more_and_follows_its_decisions() -> None:
    ours = _seen(OURS, "plan", 1.0, 2.0, 0.1, baseline="base")
    caches = [
        _seen(FBC, f"threshold {i}", 1.0, ratio, rmse, computed=[True, False])
        for i, (ratio, rmse) in enumerate([(1.2, 0.01), (1.8, 0.09), (3.0, 0.3)])
    ]
    seen = [ours, *caches]
    systems, judged = settings_like(seen, [one.system for one in seen])
    assert [system.setting for system in systems] == ["plan", "threshold 1"]
    assert systems[1].options["computed"] == [True, False]
    assert judged[caches[1].system.key] == 0.09
