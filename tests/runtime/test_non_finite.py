"""NaN and infinity in what a bundle makes are errors, not pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from soda_runtime import Bundle, EngineError

from .bundles import GOLDEN_V5, GOLDEN_V5_TEXT, copy_golden, fix_hashes, golden_request

VALUES = [float("nan"), float("inf"), 3e38]


def spoil(folder: Path, name: str, value: float) -> Path:
    """Set every number of a weights file to `value`."""
    content = (folder / name).read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    values = np.full((len(content) - begin) // 4, value, np.float32)
    (folder / name).write_bytes(content[:begin] + values.tobytes())
    fix_hashes(folder)
    return folder


@pytest.fixture(params=["ort", "openvino"])
def backend(request: pytest.FixtureRequest) -> str:
    """An engine library."""
    name = str(request.param)
    pytest.importorskip({"ort": "onnxruntime"}.get(name, name))
    return name


@pytest.mark.parametrize("value", VALUES)
def test_latents_that_are_not_finite_are_an_engine_error(tmp_path: Path, backend: str, value: float) -> None:
    folder = spoil(copy_golden(tmp_path / "bundle", GOLDEN_V5), "weights.safetensors", value)
    session = Bundle.open(folder, backend=backend, threads=1).session()
    with pytest.raises(EngineError, match=r"latents of sample 0 after 10 of 10 steps: .*NaN or infinite.*--precision"):
        session.generate(**golden_request(GOLDEN_V5))
    with pytest.raises(EngineError, match="NaN or infinite"):
        session.images()


def test_steps_before_the_first_wrong_value_give_their_latents(tmp_path: Path) -> None:
    folder = spoil(copy_golden(tmp_path / "bundle", GOLDEN_V5), "weights.safetensors", float("nan"))
    session = Bundle.open(folder, backend="ort", threads=1).session()
    session.start(3)
    assert np.isfinite(session.latents()).all()
    session.step(0)
    with pytest.raises(EngineError, match="after 1 of 10 steps"):
        session.latents()


def test_images_that_are_not_finite_are_an_engine_error(tmp_path: Path) -> None:
    """OpenVINO's clamp to 0..1 makes numbers of NaN, ONNX Runtime's does not."""
    folder = spoil(copy_golden(tmp_path / "bundle", GOLDEN_V5_TEXT), "decoder.safetensors", float("nan"))
    session = Bundle.open(folder, backend="ort", threads=1).session()
    inputs = {"embeds": np.zeros((1, 8, 16), np.float32), "attention_mask": np.ones((1, 8), np.int64)}
    assert np.isfinite(session.generate(inputs=inputs, negative_inputs=inputs)).all()
    with pytest.raises(EngineError, match=r"image of sample 0 .*NaN or infinite"):
        session.images()
