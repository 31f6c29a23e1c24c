"""The verbs build, play, measure and show a bundle that decides."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Soda

BUILD = ("--steps", 12, "--policy", "misfit", "--calls", 7, "--policy-samples", 6, "--plan-samples", 2)


def test_a_bundle_with_a_policy_is_built_played_measured_scored_and_shown(soda: Soda, tiny_model: Path) -> None:
    code, out, error = soda("build", "--model", tiny_model, *BUILD, "--out", "bundle", "--json")
    assert code == 0, error
    built = json.loads(out)
    assert built["policy"] == "misfit"
    assert built["calls"] == pytest.approx(7.0, abs=1.5)
    assert "misfit: ##?" in soda("inspect", "bundle")[1]
    played = json.loads(soda("run", "bundle", "--labels", "1,2,3", "--out", "a.npy", "--json")[1])
    assert all(2 <= calls < 12 for calls in played["calls"])
    for policy in ("frozen", "full"):
        words = ("run", "bundle", "--labels", "1", "--policy", policy, "--out", "b.npy", "--json")
        assert "calls" not in json.loads(soda(*words)[1])
    code, out, error = soda("bench", "bundle", "--rounds", 3, "--batch", 2, "--json")
    assert code == 0, error
    found = json.loads(out)["policy"]
    assert found["least_calls"] <= found["calls"] <= found["most_calls"]
    code, out, error = soda("eval", "bundle", "--seeds", "1000000:1000004", "--json")
    assert code == 0, error
    assert 2 <= json.loads(out)[0]["calls"]["mean"] < 12
    code, _, error = soda("verify", "bundle")
    assert code == 0, error


def test_policies_are_swept_beside_planners(soda: Soda, tiny_model: Path) -> None:
    code, out, error = soda(
        "sweep", "--model", tiny_model, "--steps", 12, "--map", "uniform", "--planners", "easycache,sada,uniform",
        "--flops-ratios", 1.6, "--seeds", "1000000:1000004", "--plan-samples", 2, "--out", "sweep", "--json",
    )  # fmt: skip
    assert code == 0, error
    rows = {row["planner"]: row for row in json.loads(out)["rows"]}
    assert rows["easycache"]["calls"]["mean"] == pytest.approx(12 / rows["easycache"]["flops_ratio"])
    assert rows["sada"]["calls"] is not None
    assert rows["uniform"]["calls"] is None


@pytest.mark.parametrize(("words", "message"), [
    (("--calls", 7), "--calls: goes with --policy"),
    (("--policy", "misfit"), "--policy misfit: give --calls"),
    (("--policy", "misfit", "--calls", 12), "--calls 12: must be a number from 2, below the 12 steps"),
    (("--policy", "sada", "--calls", 6), "--calls: --policy sada decides as published"),
    (("--policy", "easycache"), "--policy easycache: give one of --calls and --threshold"),
    (("--policy", "misfit", "--calls", 6, "--inpainting"), "--policy: a bundle that inpaints"),
])  # fmt: skip
def test_what_does_not_go_together_is_refused_before_anything_is_measured(
    soda: Soda, tiny_model: Path, words: tuple[object, ...], message: str
) -> None:
    code, _, error = soda("build", "--model", tiny_model, "--steps", 12, *words, "--out", "bundle")
    assert code == 2
    assert message in error
    assert not Path("bundle").exists()
