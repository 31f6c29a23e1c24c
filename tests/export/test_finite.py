"""NaN and infinity are noticed: in a checkpoint, after conversion, and in what a bundle computes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from soda_runtime import Session

from soda_export.errors import ExportError, ModelError, SodaError
from soda_export.models.load import load_model
from soda_export.options import BundleOptions, SamplerOptions
from soda_export.workbench.pipeline import Workbench
from soda_export.workbench.prove import play_bundle
from soda_export.workbench.stages import StageStore
from tests.tiny import LAYERS, TOKENS, make_plan

WEIGHT = "transformer_blocks.1.attn1.to_q.weight"


def with_weight(model: Path, folder: Path, value: float, name: str = WEIGHT, place: int | slice = 3) -> Path:
    """The toy model with one number of a weight replaced, or all."""
    shutil.copytree(model, folder)
    file = folder / "transformer/diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors[name].view(-1)[place] = value
    save_file(tensors, file, {"format": "pt"})
    return folder


def build(folder: Path, out: Path, precision: str) -> Path:
    bench = Workbench(str(folder), SamplerOptions("ddim", 4, 0.0, 1.5), StageStore(out / "work"), lambda *_: None)
    kept = np.full((4, LAYERS, 2), TOKENS)
    kept[[1, 2]] = 0
    options = BundleOptions(precision=precision)  # type: ignore[arg-type]
    return bench.build(make_plan(bench.loaded.spec, kept), "ort", out / "bundle", options).out


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_checkpoint_with_a_number_that_is_none_is_refused(tiny_model: Path, tmp_path: Path, value: float) -> None:
    with pytest.raises(ModelError, match=r"safetensors: 'transformer_blocks.1.attn1.to_q.weight' has NaN or infinity"):
        load_model(str(with_weight(tiny_model, tmp_path / "model", value))).weights.read(WEIGHT)


def test_a_weight_beyond_half_precision_is_refused_and_builds_in_single(tiny_model: Path, tmp_path: Path) -> None:
    model = with_weight(tiny_model, tmp_path / "model", 1e5)
    with pytest.raises(ExportError, match=r"reaches 1e\+05, beyond the 6.55e\+04 of float16; .*--precision fp32"):
        build(model, tmp_path, "fp16")
    assert np.isfinite(Session.open(build(model, tmp_path, "fp32")).generate([1])).all()


def test_a_bundle_whose_own_backend_computes_nan_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    """Every weight fits into half precision here; the products do not."""
    name = "transformer_blocks.1.ff.net.0.proj.weight"
    model = with_weight(tiny_model, tmp_path / "model", 6e4, name, slice(0, None, 2))
    with pytest.raises(SodaError, match=r"after 2 of 4 steps: a value is NaN or infinite; fp16 .*--precision"):
        build(model, tmp_path, "fp16")
    assert not (tmp_path / "bundle").exists()


def test_a_backend_that_cannot_run_here_is_said_not_to_be_played(
    tiny_bundle, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("soda_export.workbench.prove.why_not_played", lambda *_: "trt has no device here")
    manifest = Session.open(tiny_bundle.out, backend="null").bundle.manifest
    with caplog.at_level("WARNING"):
        play_bundle(tiny_bundle.out, manifest)
    assert "bundle: not played, trt has no device here" in caplog.text
