"""A bundle is proved by playing it: its dispatch, and its own engines, whose results must be numbers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from soda_runtime import EngineError

from soda_export.machine import memory_bytes
from soda_export.workbench.prove import needed_bytes, play_bundle, prove_bundle
from tests.runtime.bundles import GOLDEN_V5, GOLDEN_V5_PORTS, GOLDEN_V5_TEXT, copy_golden
from tests.runtime.test_non_finite import spoil


@pytest.mark.parametrize("golden", [GOLDEN_V5, GOLDEN_V5_TEXT, GOLDEN_V5_PORTS], ids=lambda golden: golden.name)
def test_a_sound_bundle_is_proved(golden: Path) -> None:
    manifest = prove_bundle(golden)
    play_bundle(golden, manifest)
    assert manifest.version == 5


@pytest.mark.parametrize(("golden", "weights"), [(GOLDEN_V5, "weights"), (GOLDEN_V5_TEXT, "decoder")])
def test_a_bundle_that_makes_nan_is_not_proved(tmp_path: Path, golden: Path, weights: str) -> None:
    folder = spoil(copy_golden(tmp_path / "bundle", golden), f"{weights}.safetensors", float("nan"))
    with pytest.raises(EngineError, match="NaN or infinite"):
        play_bundle(folder, prove_bundle(folder))


def test_a_bundle_beyond_this_machines_memory_is_not_played(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights alone would fill it: opening the engines would end the build, or another process."""
    folder = spoil(copy_golden(tmp_path / "bundle", GOLDEN_V5), "weights.safetensors", float("nan"))
    manifest = prove_bundle(folder)
    weights = sum((folder / name).stat().st_size for name in manifest.weights)
    monkeypatch.setattr("soda_export.workbench.prove.memory_bytes", lambda: weights)
    with caplog.at_level("WARNING"):
        play_bundle(folder, manifest)
    assert "bundle: not played, its engines take about 0 GB of memory, and this machine has 0 GB" in caplog.text
    monkeypatch.setattr("soda_export.workbench.prove.memory_bytes", lambda: 100 * weights)
    with pytest.raises(EngineError, match="NaN or infinite"):
        play_bundle(folder, manifest)


def test_repacked_weights_count_for_each_step_program_by_its_share() -> None:
    """OpenVINO's engines have copies of their own; what prompts are read with is there once."""
    programs = tuple(SimpleNamespace(weights="weights", flops=flops) for flops in (100, 50, 100))
    manifest: Any = SimpleNamespace(
        backend="openvino", programs=programs, weights=("weights", "text"), arena=SimpleNamespace(bytes=10),
        files={"weights": SimpleNamespace(bytes=1000), "text": SimpleNamespace(bytes=300)},
    )  # fmt: skip
    assert needed_bytes(manifest) == 10 + 300 + 2500
    manifest.backend = "ort"
    assert needed_bytes(manifest) == 10 + 300 + 1000


def test_a_containers_memory_is_its_limit(tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text("1000000\n")
    assert memory_bytes(limit) == 1_000_000
    limit.write_text("max\n")
    assert memory_bytes(limit) == memory_bytes(tmp_path / "none") > 1e8
