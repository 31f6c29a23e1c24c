"""What schedules are measured of: latents, pixels, or what a network makes of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from soda_export.errors import UsageError
from soda_export.eval.sample import ModelSamples
from soda_export.models.load import load_model
from soda_export.options import SamplerOptions
from soda_export.plan.plan import HeldOut
from soda_export.plan.schedule import Schedule
from soda_export.search.journal import Journal
from soda_export.search.objective import LPIPS, PIXELS, make_objective
from soda_export.search.trial import Trials
from soda_export.workbench.pipeline import Workbench
from soda_export.workbench.stages import StageStore


def test_pixels_are_those_that_the_decoder_draws(tmp_path: Path) -> None:
    loaded = load_model("shapes")
    objective = make_objective(PIXELS, loaded)
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    bench = Workbench(loaded, SamplerOptions("dpm-solver++", 4, 0.0, 7.0), StageStore(tmp_path), lambda *_: None)
    images = ModelSamples(bench).images(latents.numpy())
    assert images is not None
    np.testing.assert_allclose(objective.view(latents).numpy(), images, atol=1e-5)
    squares = objective.squares(objective.view(latents), objective.view(latents.flip(0)))
    assert squares == pytest.approx(((images - images[::-1]) ** 2).mean(axis=(1, 2, 3)), rel=1e-4)


def test_errors_are_of_what_is_asked_for(trials: Trials) -> None:
    """A view that doubles quadruples squares, also those of the journal, which knows them apart."""
    schedule = Schedule.at_anchors(trials.spec, trials.sampler.steps, tuple(range(0, trials.sampler.steps, 2)))
    own = trials.seen(2)
    own.journal = Journal()
    doubled = own.seen(2)
    doubled.objective = own.objective._replace(name=PIXELS, view=lambda latents: 2 * latents)
    assert doubled.squared_errors(schedule) == pytest.approx(4 * own.squared_errors(schedule))
    assert doubled.unseen(2).held_out_errors(schedule, doubled) == pytest.approx(
        4 * own.unseen(2).held_out_errors(schedule, own)
    )


def test_a_networks_distances_are_squared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def distance(images: Any, others: Any) -> Any:
        return np.abs(images - others).mean(axis=(1, 2, 3))

    monkeypatch.setattr("soda_export.search.objective.load_lpips", lambda file, option: distance)
    (tmp_path / "alex.pth").touch()
    objective = make_objective(f"lpips:{tmp_path / 'alex.pth'}", load_model("digits"))
    assert objective.name == LPIPS
    black, grey = torch.full((2, 1, 32, 32), -1.0), torch.zeros(2, 1, 32, 32)
    assert objective.squares(objective.view(black), objective.view(grey)) == pytest.approx([0.25, 0.25])


def test_another_network_measures_anew(trials: Trials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one network said is not recalled for another of the same kind."""
    keys = []
    for weights in (b"one", b"another", b"one"):
        file = tmp_path / "alex.pth"
        file.write_bytes(weights)
        monkeypatch.setattr("soda_export.search.objective.load_lpips", lambda file, option: None)
        own = trials.seen(1)
        own.objective = make_objective(f"lpips:{file}", load_model("digits"))
        keys.append(own.key_of(b"a schedule"))
    assert keys[0] == keys[2] != keys[1]


def test_what_cannot_be_measured_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="--objective speed: not latents, pixels or lpips:FILE"):
        make_objective("speed", load_model("digits"))
    for source, reason in (
        (None, "shapes has no trained image decoder"),
        (SimpleNamespace(seed=1), "shapes has no trained image decoder"),
        (SimpleNamespace(seed=None, frames_per_second=8.0), "is for pictures; shapes makes clips or sounds"),
    ):
        monkeypatch.setattr("soda_export.search.objective.decoder_source", lambda _, source=source: source)
        with pytest.raises(UsageError, match=f"--objective pixels: {reason}"):
            make_objective(PIXELS, load_model("shapes"))
    with pytest.raises(UsageError, match=r"--objective .*alex\.pth: no such file"):
        make_objective(f"lpips:{tmp_path / 'alex.pth'}", load_model("digits"))
    assert make_objective(PIXELS, load_model("digits")).name == "latents"


def test_a_plan_says_what_its_error_is_of() -> None:
    assert HeldOut(0.5, 0.25, 8, 0, PIXELS).words == "RMSE of pixels 0.5 on 8 unseen samples, 0.25 on its own"
