"""A bundle is proved by playing it: its dispatch, and its own engines, whose results must be numbers."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from soda_runtime import EngineError

from soda_export.build.pack import prove_bundle
from tests.runtime.bundles import GOLDEN_V5, GOLDEN_V5_PORTS, GOLDEN_V5_TEXT, copy_golden, edit_manifest, put
from tests.runtime.test_non_finite import spoil


@pytest.mark.parametrize("golden", [GOLDEN_V5, GOLDEN_V5_TEXT, GOLDEN_V5_PORTS], ids=lambda golden: golden.name)
def test_a_sound_bundle_is_proved(golden: Path) -> None:
    assert prove_bundle(golden).version == 5


@pytest.mark.parametrize(("golden", "weights"), [(GOLDEN_V5, "weights"), (GOLDEN_V5_TEXT, "decoder")])
def test_a_bundle_that_makes_nan_is_not_proved(tmp_path: Path, golden: Path, weights: str) -> None:
    folder = spoil(copy_golden(tmp_path / "bundle", golden), f"{weights}.safetensors", float("nan"))
    with pytest.raises(EngineError, match="NaN or infinite"):
        prove_bundle(folder)


def test_a_bundle_for_another_machine_is_proved_as_far_as_it_goes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = copy_golden(tmp_path / "bundle", GOLDEN_V5)
    edit_manifest(folder, put("backend", value="tpu"))
    with caplog.at_level(logging.INFO):
        prove_bundle(folder)
    assert "not played on its engines" in caplog.text
