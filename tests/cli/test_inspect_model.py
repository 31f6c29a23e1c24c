"""`soda-export inspect MODEL`: what a model and its sites are."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from soda_export.cli.app import main
from soda_export.plan.sensitivity import map_bytes
from soda_export.report.sensitivity import draw_sensitivity
from tests.plan.problems import TOY, random_map

GOLDEN = Path(__file__).parents[1] / "golden/v5-skip"
REPR = re.compile(r"\['|\{'|\('|\(\d+,|\[\d+[,\]]|\bNone\b|\bTrue\b|\bFalse\b|array\(")
"""How Python writes tuples, lists, dicts and the like."""


def inspect(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    monkeypatch.setattr("sys.argv", ["soda-export", "inspect", *words])
    monkeypatch.setenv("COLUMNS", "150")
    main()
    return capsys.readouterr().out


def test_sites_are_listed_with_their_share_of_a_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = inspect(monkeypatch, capsys, "digits", "--sites")
    assert "digits: 13 sites, 0.000192381 TFLOPs a step of 2 rows" in text
    assert "transformer_blocks.0.attn1" in text
    found = json.loads(inspect(monkeypatch, capsys, "digits", "--sites", "--json"))
    assert sum(site["flops"] for site in found["sites"]) == found["step_flops"]
    assert sum(site["share"] for site in found["sites"]) == pytest.approx(1.0)
    assert {site["kind"] for site in found["sites"]} == {"attn", "ff", "stack"}
    assert found["sites"][1]["outputs"] == [[64, 96]]


def test_sites_of_a_model_of_any_size_follow_its_size(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.loads(inspect(monkeypatch, capsys, "flux-schnell", "--sites", "--image-size", "512", "--json"))
    assert found["rows"] == 1
    assert found["sites"][0]["outputs"] == [[1024, 3072], [256, 3072]]


def test_a_model_is_described_by_its_ports_and_kinds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = inspect(monkeypatch, capsys, "shapes")
    assert "embeds (24 x 128), attention_mask (24)" in text
    assert "6 attn, 6 cross_attn, 6 ff, 1 stack" in text
    assert "pos_embed_max_size" in inspect(monkeypatch, capsys, "sd3-medium")
    with pytest.raises(SystemExit, match="2"):
        inspect(monkeypatch, capsys, "digits", "--sites", "--image-size", "64")
    assert capsys.readouterr().err == (
        "soda-export: --image-size 64: a dit model has the one size that it was trained for\n"
    )


@pytest.mark.parametrize("target", ["digits", "shapes", "pixart", "flux-dev", "sd3-medium", "wan-1.3b"])
def test_a_model_is_described_in_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    assert not REPR.search(inspect(monkeypatch, capsys, target))


@pytest.mark.parametrize("file", ["", "plan.json", "programs.json", "map"])
def test_bundles_plans_tables_and_maps_are_described_in_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, file: str
) -> None:
    target = GOLDEN / file
    if file == "map":
        target = tmp_path / "a.map.safetensors"
        target.write_bytes(map_bytes(random_map(TOY, 12)))
    text = inspect(monkeypatch, capsys, str(target))
    assert not REPR.search(text)
    if file != "programs.json":
        assert "█" in text  # a picture


def test_a_map_is_drawn_darker_where_errors_are_larger(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    sensitivity = random_map(TOY, 12)
    errors = np.where(np.arange(12)[:, None, None] < 6, 1e-3, 1.0) * np.ones_like(sensitivity.reuse_error)
    errors[0] = np.nan
    lines = draw_sensitivity(replace(sensitivity, reuse_error=errors.astype(np.float32)))
    assert lines[1].split()[-1] == "?▁▁▁▁▁██████"
    assert len(lines) == 1 + len(TOY.sites) + 1
