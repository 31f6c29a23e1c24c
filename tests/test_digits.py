"""The built-in model: trained well enough to judge planners on, and exact through the whole chain."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiTTransformer2DModel
from soda_runtime import Noise, Session

from soda_export.eval.digits import DigitsJudge, frechet_distance, load_digits_split
from soda_export.models.load import BUILTIN_FOLDER
from soda_export.options import SamplerOptions
from soda_export.sampler import make_scheduler
from soda_export.workbench.pipeline import Workbench
from soda_export.workbench.stages import StageStore
from tests.export.test_against_reference import diffusers_loop
from tests.tiny import make_plan

DIGITS = BUILTIN_FOLDER / "digits"
LABELS = torch.arange(16) % 10


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    store = StageStore(tmp_path_factory.mktemp("digits"))
    return Workbench("digits", SamplerOptions("ddim", 50, 0.0, 1.5), store, lambda *_: None)


@pytest.fixture(scope="module")
def all_compute(bench: Workbench, tmp_path_factory: pytest.TempPathFactory) -> Session:
    plan = make_plan(bench.loaded.spec, np.full((50, 6, 2), 64))
    return Session.open(bench.build(plan, "ort", tmp_path_factory.mktemp("shelf") / "digits").out)


@torch.no_grad()
def test_all_compute_equals_diffusers_on_16_samples(bench: Workbench, all_compute: Session) -> None:
    noise = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    model = DiTTransformer2DModel.from_pretrained(DIGITS / "transformer").eval()
    scheduler = make_scheduler("ddim", bench.loaded.scheduler_config)
    expected = diffusers_loop(model, scheduler, LABELS, noise, 1.5, 50).numpy()
    found = all_compute.generate(LABELS.tolist(), noise=Noise(noise.numpy()))
    difference = float(np.abs(found - expected).max())
    print(f"largest difference from diffusers: {difference:.1e}")
    assert difference <= 1e-3


@pytest.mark.long
def test_samples_are_recognised_as_their_label(all_compute: Session) -> None:
    judge, labels = DigitsJudge(), np.arange(100) % 10
    assert judge.held_out_accuracy() >= 0.97
    assert judge.accuracy(all_compute.generate(labels.tolist(), seed=0), labels) >= 0.95


def test_the_model_is_small_and_its_training_is_on_record() -> None:
    size = sum(path.stat().st_size for path in DIGITS.rglob("*.safetensors"))
    assert size <= 8e6
    record = json.loads((DIGITS / "training.json").read_text())
    assert record["scores"]["sample_accuracy_ddim50"] >= 0.95
    assert len(record["loss_curve"]) == record["settings"]["iterations"] // 50


def test_frechet_distance_of_equal_sets_is_zero_and_of_shifted_ones_is_the_shift() -> None:
    features = np.random.default_rng(0).standard_normal((500, 4))
    assert frechet_distance(features, features) == pytest.approx(0.0, abs=1e-6)
    assert frechet_distance(features, features + 2.0) == pytest.approx(16.0, rel=1e-6)


def test_the_split_never_shares_an_image() -> None:
    split = load_digits_split()
    train = {image.tobytes() for image in split.train_images}
    shared = [image for image in split.held_out_images if image.tobytes() in train]
    assert len(shared) == 0
    assert Path(DIGITS / "model_index.json").is_file()
