"""With other prompts, or other noise in their place, rows are of another sweep, and measurements are made anew."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from soda_export.cli.sweep import sweep
from soda_export.errors import UsageError
from soda_export.models.load import ModelRequest, load_model
from soda_export.options import ProfileOptions, SamplerOptions, SamplerRequest
from soda_export.plan.solve import PlanOptions
from soda_export.search.planning import make_plan_for
from soda_export.sweep.options import SweepOptions
from soda_export.sweep.rows import RowFile
from soda_export.workbench.pipeline import Workbench
from soda_export.workbench.stages import StageStore
from tests.conftest import OpenBench
from tests.tiny_models import save_tiny_pixart


def test_prompts_beyond_the_samples_of_the_profile_are_another_sweep(
    tiny_pixart: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a map that does not change. The folder of an older version, which did not write prompts down, is taken up
    with those of the first to come."""

    def run(prompts: Path) -> None:
        sweep(
            model=ModelRequest(str(tiny_pixart)), sampler=SamplerRequest(steps=4), map=Path("uniform"),
            profiling=ProfileOptions(samples=2, prompts=prompts),
            options=SweepOptions("uniform", "1.5", Path("out"), "50:52"), json=True,
        )  # fmt: skip

    monkeypatch.chdir(tmp_path)
    one, other, setting = Path("a.txt"), Path("b.txt"), Path("out/setting.json")
    one.write_text("red\nblue\na circle\n")
    other.write_text("red\nblue\na square\n")
    run(one)
    message = 'holds a sweep with conditions.texts.2 "a circle", not "a square"; name another folder'
    with pytest.raises(UsageError, match=message):
        run(other)
    written = json.loads(setting.read_bytes())
    rows = Path("out/rows.jsonl").read_bytes()
    setting.write_text(json.dumps({name: value for name, value in written.items() if name != "conditions"}))
    run(one)
    assert Path("out/rows.jsonl").read_bytes() == rows
    with pytest.raises(UsageError, match=message):
        run(other)


def test_an_older_folder_is_taken_up_where_nothing_contradicts_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    RowFile(tmp_path, {"model": "a"})
    conditions = {"texts": ["red"], "text_encoder": {}}
    with pytest.raises(UsageError, match='model "a", not "b"'):
        RowFile(tmp_path, {"model": "b", "conditions": conditions})
    with caplog.at_level(logging.WARNING, "soda_export"):
        RowFile(tmp_path, {"model": "a", "conditions": conditions})
        RowFile(tmp_path, {"model": "a", "conditions": conditions})
    assert caplog.text.count("does not say which prompts or hints") == 1


def test_measurements_on_other_noise_are_not_taken_for_these(tmp_path: Path) -> None:
    """Random embeddings come from --seed and --samples."""
    loaded = load_model(str(save_tiny_pixart(tmp_path / "model", vae=False, text=False)))
    options, store = SamplerOptions("dpm-solver++", 4, 0.0, 4.5), StageStore(tmp_path / "work")
    bench, profiling = Workbench(loaded, options, store, lambda *_: None), ProfileOptions(samples=2)
    planning = PlanOptions(planner="lemica", flops_ratio=1.3, plan_samples=1)
    for calibration in (profiling, profiling, replace(profiling, seed=5), replace(profiling, samples=300)):
        make_plan_for(bench, None, planning, calibration)
    assert len(list(store.root.glob("partial-trials-*"))) == 3


def test_the_seed_of_noise_does_not_matter_where_prompts_are_given(open_text_bench: OpenBench) -> None:
    bench, profiling = open_text_bench(), ProfileOptions(samples=2)
    assert bench.calibration(replace(profiling, seed=5)).key == bench.calibration(profiling).key
