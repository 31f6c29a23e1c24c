"""benchmarks/turns.py: what steps take of the all-compute steps beside them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from soda_runtime.checks import open_manifest

from soda_export.workbench.pipeline import Built

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import turns


def test_shares_are_of_the_steps_beside_them_whatever_the_pace() -> None:
    pace = np.array([[1.0], [4.0], [2.0]])  # of three rounds
    found = turns.shares(pace * [1.1, 0.2, 1.1, 0.2], pace * [1.0, 1.0, 1.0, 1.0], [2, 0, 2, 0], ["a", "b", "c"])
    assert list(found) == ["c", "a"]
    for file, share in (("c", 1.1), ("a", 0.2)):
        assert found[file]["steps"] == 2
        assert found[file]["time_share"] == pytest.approx({"median": share, "low": share, "high": share})


def test_every_program_of_a_bundle_has_a_share(
    tiny_bundle: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "turns.json"
    monkeypatch.setattr(sys, "argv", ["turns.py", str(tiny_bundle.out), "--rounds", "3", "--out", str(out)])
    turns.main()
    found, manifest = json.loads(out.read_text()), open_manifest(tiny_bundle.out)
    assert set(found["programs"]) == {manifest.programs[step.program].file for step in manifest.steps}
    assert sum(share["steps"] for share in found["programs"].values()) == manifest.sampler.steps
    assert found["speedup"] == pytest.approx(found["all_compute_s"] / found["steps_s"])
    assert found["realization"] == pytest.approx(found["speedup"] / manifest.flops_ratio)


def test_no_bundle_and_no_rounds_are_refused_in_one_line(
    tiny_bundle: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["turns.py", str(tmp_path / "none")])
    with pytest.raises(SystemExit, match=r"none: no such bundle folder"):
        turns.main()
    monkeypatch.setattr(sys, "argv", ["turns.py", str(tiny_bundle.out), "--rounds", "0"])
    with pytest.raises(SystemExit):
        turns.main()
    assert "--rounds 0: must be 1 or more" in capsys.readouterr().err
