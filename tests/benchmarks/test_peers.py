"""benchmarks/peers.py on a toy: rows have what the table promises, and the systems are the same model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import save_tiny_model

pytestmark = pytest.mark.long

_ROOT = Path(__file__).resolve().parents[2]
_FIELDS = {
    "system", "setting", "model", "precision", "latency_s", "flops_ratio", "realization", "rmse", "peak_bytes",
    "reason",
}  # fmt: skip


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run leaves: two rounds of our systems, diffusers in eager torch, and two of its caches."""
    place = tmp_path_factory.mktemp("peers")
    model, out = save_tiny_model(place / "toy"), place / "results/peers-toy.json"
    arguments = {
        "--models": model, "--only": "soda-export ONNX,diffusers eager,diffusers TaylorSeer,diffusers Sea,SODA",
        "--precisions": "fp32",
        "--steps": 8, "--samples": 4, "--batch": 2, "--rounds": 2, "--ratios": 2, "--planner": "soda",
        "--profile-samples": 2, "--threads": 1, "--work": place / "work", "--out": out,
    }  # fmt: skip
    words = [str(word) for pair in arguments.items() for word in pair]
    command = [sys.executable, str(_ROOT / "benchmarks/peers.py"), *words]
    paths = [str(_ROOT), str(_ROOT / "runtime/python"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(command, env=environment, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert out.with_suffix(".png").stat().st_size > 0
    assert "| soda-export ONNX Runtime |" in out.with_suffix(".md").read_text()
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def _rows(record: dict[str, Any], system: str, setting: str) -> list[dict[str, Any]]:
    return [row for row in record["rows"] if row["system"] == system and row["setting"].startswith(setting)]


def test_every_row_has_the_fields_of_the_table_and_a_measurement_or_a_reason(record: dict[str, Any]) -> None:
    for row in record["rows"]:
        assert row.keys() >= _FIELDS
        assert (row["latency_s"] is None) == bool(row["reason"])
        if row["latency_s"] is not None:
            assert row["latency_low_s"] <= row["latency_s"] <= row["latency_high_s"]
            assert row["timed"] == 4  # two rounds of two requests
    assert record["machine"]["processor"]
    assert record["machine"]["versions"].keys() >= {"torch", "diffusers", "onnxruntime", "cache-dit"}


def test_diffusers_in_eager_torch_is_what_our_bundle_and_the_reference_compute(record: dict[str, Any]) -> None:
    (eager,) = _rows(record, "diffusers eager", "")
    assert eager["rmse"] == 0.0
    for system in ("soda-export ONNX Runtime", "SODA reference"):
        (row,) = _rows(record, system, "everything computed")
        assert row["relative_rmse"] < 1e-5


def test_a_plan_errs_the_same_in_a_bundle_and_in_the_reference_and_both_state_their_realization(
    record: dict[str, Any],
) -> None:
    (bundle,), (reference,) = (_rows(record, s, "soda x2") for s in ("soda-export ONNX Runtime", "SODA reference"))
    assert bundle["rmse"] > 1e-4
    assert bundle["rmse"] == pytest.approx(reference["rmse"], rel=1e-3)
    for row in (bundle, reference):
        assert row["realization"] == pytest.approx(row["speedup"] / row["flops_ratio"])


def test_caches_of_diffusers_save_work_at_an_error(record: dict[str, Any]) -> None:
    (row,) = _rows(record, "diffusers TaylorSeer", "interval 3")
    assert row["flops_ratio"] > 1.2
    assert row["rmse"] > 0
    (refused,) = _rows(record, "diffusers SeaCache", "")
    assert "callback" in refused["reason"]


def test_the_verdict_names_the_fastest_peer_that_errs_no_more(record: dict[str, Any]) -> None:
    (verdict,) = record["verdicts"]
    rivals = [
        row["latency_s"] for row in record["rows"]
        if row["system"].startswith(("diffusers", "cache-dit")) and row["latency_s"] is not None
        and row["rmse"] <= verdict["judged_rmse"]
    ]  # fmt: skip
    assert verdict["peer_latency_s"] == min(rivals)
    assert verdict["ratio"] == pytest.approx(verdict["peer_latency_s"] / verdict["latency_s"])
