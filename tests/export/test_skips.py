"""Bundles whose schedules skip whole steps: equal to the reference in both graph engines, and no start from latents."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from soda_runtime import RequestError, Session

from soda_export.build.pipeline import Workbench
from soda_export.build.stages import StageStore
from soda_export.eager.reference import run_reference
from soda_export.errors import ExportError, PlanError
from soda_export.options import BundleOptions, ProfileOptions, SamplerOptions
from soda_export.plan.plan import plan_text
from soda_export.plan.planners.skips import zeus_fill
from soda_export.plan.schedule import Schedule, skipped_work
from soda_export.plan.solve import PlanOptions
from soda_export.search.planning import make_plan_for
from tests.conftest import OpenBench
from tests.export.test_against_reference import NO_PARTS, noise_for, texts_for
from tests.tiny_models import save_tiny_sd3, save_tiny_unet

STEPS = 8


def skipping(bench: Workbench) -> Schedule:
    """Skips after one and after two computations, twice in a row, and beside a step that reuses."""
    spec = bench.loaded.spec
    schedule = Schedule.at_anchors(spec, STEPS, (0, 2, 3, 6))
    schedule.work[[1, 4, 5]] = skipped_work(spec)
    return schedule


@pytest.mark.parametrize(("family", "sampler"), [("sd15", "euler"), ("sd15", "unipc"), ("sd3", "flow-euler")])
@pytest.mark.parametrize("precision", ["fp32"])
def test_a_bundle_equals_the_reference(tmp_path: Path, family: str, sampler: str, precision: str) -> None:
    save = save_tiny_sd3 if family == "sd3" else save_tiny_unet
    options = SamplerOptions(sampler, STEPS, 0.0, 4.5)
    bench = Workbench(str(save(tmp_path / "model")), options, StageStore(tmp_path / "store"), lambda *_: None)
    plan = bench.completed(bench.plan_of(skipping(bench), "by hand"), zeus_fill)
    built = bench.build(plan, "ort", tmp_path / "bundle", NO_PARTS)
    rows, asked = texts_for(bench, 3)
    noise = noise_for(3, STEPS, False, bench.loaded.spec.latent_shape)
    expected = run_reference(bench.eager, bench.sampler, built.table, rows, torch.from_numpy(noise.initial)).numpy()
    for backend in ("ort", "openvino"):
        played = Session.open(built.out, backend=backend).generate(**asked, noise=noise)
        assert np.abs(played - expected).max() <= 1e-3 * max(1.0, np.abs(expected).max())


def test_a_plan_by_hand_holds_the_last_prediction(open_bench: OpenBench, tmp_path: Path) -> None:
    bench = open_bench(steps=STEPS)
    plan = bench.plan_of(skipping(bench), "by hand")
    assert plan.coefficients is None
    (tmp_path / "plan.json").write_bytes(plan_text(plan))
    assert '"skip"' in (tmp_path / "plan.json").read_text()
    read = bench.load_plan(tmp_path / "plan.json")
    assert read.coefficients is not None
    first, second = (bench.build(p, "ort", tmp_path / name).out for p, name in ((plan, "a"), (read, "b")))
    assert np.array_equal(*(Session.open(out).generate([1, 2], seed=3) for out in (first, second)))


def test_what_needs_more_than_the_last_predictions_is_refused(open_bench: OpenBench, tmp_path: Path) -> None:
    bench = open_bench(steps=STEPS)
    plan = bench.plan_of(skipping(bench), "by hand")
    with pytest.raises(ExportError, match="--inpainting: the plan skips whole steps"):
        bench.build(plan, "ort", tmp_path / "inpaint", BundleOptions(inpainting=True))
    session = Session.open(bench.build(plan, "ort", tmp_path / "bundle").out)
    latents = np.zeros((1, *bench.loaded.spec.latent_shape), np.float32)
    with pytest.raises(RequestError, match="start"):
        session.generate([1], start_latents=latents, start_step=2)
    late = Schedule(np.roll(plan.schedule.work, -1, axis=0))
    with pytest.raises(PlanError, match="step 0: skip"):
        bench.build(replace(plan, schedule=late), "ort", tmp_path / "late")


@pytest.mark.parametrize("planner", ["zeus", "skip-fitted"])
def test_planners_that_skip_bring_their_coefficients(open_bench: OpenBench, planner: str) -> None:
    bench = open_bench(steps=STEPS)
    options = PlanOptions(budget=4, planner=planner, plan_samples=2)  # type: ignore[arg-type]
    plan = make_plan_for(bench, None, options, ProfileOptions()).plan
    assert plan.coefficients is not None
    assert sum(plan.schedule.skips) == STEPS - 4
    assert bench.completed(plan) is plan
