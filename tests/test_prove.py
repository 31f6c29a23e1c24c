"""A bundle is proved by playing it: its dispatch, and its own engines, whose results must be numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
from soda_runtime import EngineError

from soda_export.workbench.prove import play_bundle, prove_bundle
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
