"""What ControlNets are given while their model is profiled and evaluated: one picture a prompt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from soda_export.eager.hints import read_hints
from soda_export.errors import UsageError
from soda_export.eval.conditions import SeedConditions
from soda_export.eval.evaluate import EvalOptions, Evaluator
from soda_export.eval.scenes import draw_scenes, find_objects, render, silhouette
from soda_export.eval.worlds import held_out_scenes
from soda_export.models.load import ModelRequest, load_model
from soda_export.models.published import BUILTIN_CONTROLNETS, BUILTIN_FOLDER
from soda_export.models.spec import Port
from soda_export.options import BundleOptions, ProfileOptions, SamplerOptions
from soda_export.plan.schedule import Schedule
from soda_export.workbench.pipeline import Workbench
from soda_export.workbench.stages import StageStore
from tests.text_toys import save_sd_texts
from tests.tiny_models import add_tiny_controlnet, save_tiny_unet

SIZE = 16


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion with its text encoder and a ControlNet."""
    folder = save_sd_texts(tmp_path_factory.mktemp("model") / "sd", 1)
    return add_tiny_controlnet(save_tiny_unet(folder, cross_attention_dim=32))


@pytest.fixture
def bench(model: Path, tmp_path: Path) -> Workbench:
    loaded = load_model(str(model))
    return Workbench(loaded, SamplerOptions("ddim", 3, 0.0, 5.0), StageStore(tmp_path / "work"), lambda *_: None)


def save_pictures(folder: Path, *levels: int) -> Path:
    folder.mkdir(parents=True)
    for i, level in enumerate(levels):
        Image.new("RGB", (SIZE, SIZE), (level, 0, 255)).save(folder / f"{i}.png")
    return folder


def test_each_prompt_has_its_picture(bench: Workbench, tmp_path: Path) -> None:
    folder = save_pictures(tmp_path / "pictures", 0, 51, 102)
    made = bench.calibration(ProfileOptions(hints=folder)).conditions().rows([0, 1, 2], bench.rows)["hint"]
    assert made.shape == (6, 3, SIZE, SIZE)
    assert made[:, 0, 0, 0].tolist() == pytest.approx([0.0, 0.2, 0.4, 0.0, 0.2, 0.4])
    assert made[:, 2].eq(1).all()


def test_other_pictures_are_another_profile(bench: Workbench, tmp_path: Path) -> None:
    maps = [
        bench.profile(ProfileOptions(samples=2, hints=save_pictures(tmp_path / name, *levels)))
        for name, levels in (("a", (0, 255)), ("b", (255, 0)))
    ]
    assert np.nanmax(np.abs(maps[0].reuse_error - maps[1].reuse_error)) > 0


def test_pictures_beside_the_controlnet_are_taken_unless_others_are_given(bench: Workbench, model: Path) -> None:
    own = save_pictures(model / "controlnet/hints", 255)
    try:
        assert bench.calibration(ProfileOptions()).conditions().positive["hint"][0, 0].eq(1).all()
        assert "hints" in bench.calibration(ProfileOptions()).key
    finally:
        for file in own.iterdir():
            file.unlink()
        own.rmdir()
    assert "hints" not in bench.calibration(ProfileOptions()).key


def test_pictures_that_do_not_suit_are_refused_in_one_line(bench: Workbench, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"--hints .*empty.* has no pictures"):
        bench.calibration(ProfileOptions(hints=tmp_path / "empty")).conditions()
    wrong = save_pictures(tmp_path / "wrong", 0)
    Image.new("RGB", (SIZE, 9)).save(wrong / "0.png")
    with pytest.raises(UsageError, match=r"0.png: is 16 x 9, the model takes 16 x 16"):
        bench.calibration(ProfileOptions(hints=wrong)).conditions()
    (wrong / "0.png").write_text("no picture")
    with pytest.raises(UsageError, match=r"0.png: cannot be read as a picture"):
        bench.calibration(ProfileOptions(hints=wrong)).conditions()


@pytest.mark.long
def test_bundles_and_plans_are_evaluated_with_the_same_pictures(bench: Workbench, model: Path, tmp_path: Path) -> None:
    folder, spec = save_pictures(tmp_path / "pictures", 0, 51, 102), bench.loaded.spec
    built = bench.build(bench.plan_of(Schedule.full(spec, 3), "everything"), "ort", tmp_path / "b", BundleOptions())
    options = EvalOptions("100:104", 4, "model", folder)
    evaluator = Evaluator(options, bench.store, lambda *_: None, model=ModelRequest(str(model)))
    (row,) = evaluator.evaluate([built.out])
    assert row.scores.rmse is not None
    assert row.scores.rmse.mean <= 1e-4


def test_samples_of_scenes_have_the_silhouettes_of_what_their_prompts_say(bench: Workbench) -> None:
    scene = held_out_scenes()[5]
    assert silhouette(scene).shape == (3, 64, 64)
    assert set(np.unique(silhouette(scene))) == {0.0, 1.0}
    objects = find_objects(render(scene))
    assert 0.02 < objects.mean() < 0.5
    assert torch.equal(
        SeedConditions(bench)(range(100, 102))["hint"], SeedConditions(bench)(range(100, 102))["hint"]
    )


def test_the_built_in_controlnet_is_profiled_on_what_its_prompts_show() -> None:
    prompts = (BUILTIN_FOLDER / "scenes/prompts.txt").read_text().splitlines()
    scenes = draw_scenes(len(prompts), 9, held_out=False)
    assert [scene.caption for scene in scenes] == prompts
    port = Port("hint", "hint", (3, 64, 64))
    given = read_hints(BUILTIN_CONTROLNETS / "scenes-silhouettes/hints", [port])["hint"]
    assert np.array_equal(given, np.stack([silhouette(scene) for scene in scenes]))
