"""benchmarks/whole_plan.py on a toy: what it builds is played, and what it found is written down."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/whole_plan.py"


def measured(model: Path, folder: Path) -> dict[str, Any]:
    options = "--steps 6 --flops-ratio 1.5 --rounds 2 --backend ort --precision fp32 --store store --out found.json"
    command = [sys.executable, str(SCRIPT), str(model), *options.split()]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return record


@pytest.mark.long
def test_a_plan_is_built_played_in_turns_and_a_bundle_that_is_there_is_not_built_again(
    tiny_model: Path, tmp_path: Path
) -> None:
    first, again = measured(tiny_model, tmp_path), measured(tiny_model, tmp_path)
    assert first["build_s"] > 0
    assert again["build_s"] is None
    assert first["flops_ratio"] >= 1.45
    assert first["realization"] == pytest.approx(first["everything_s"] / first["plan_s"] / first["flops_ratio"])
    assert {name: len(runs) for name, runs in first["runs_s"].items()} == {"plan": 2, "everything": 2}
    assert first["arena_bytes"] > 0
    assert first["bundle_bytes"] > first["weights_bytes"] + first["engines_bytes"] > first["engines_bytes"] > 0
    assert min(first["play_peak_bytes"], first["build_peak_bytes"]) > first["bundle_bytes"]
