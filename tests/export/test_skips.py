"""Bundles whose schedules skip whole steps: equal to the reference in both graph engines, from every start, too."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from soda_runtime import Session

from soda_export.eager.reference import Start, run_reference
from soda_export.errors import PlanError
from soda_export.options import BundleOptions, ProfileOptions, SamplerOptions
from soda_export.plan.plan import plan_text
from soda_export.plan.planners.skips import zeus_fill
from soda_export.plan.schedule import Schedule, skipped_work
from soda_export.plan.solve import PlanOptions
from soda_export.sampler import KnownRegion, freeze_starts, levels_after
from soda_export.search.planning import make_plan_for
from soda_export.workbench.pipeline import Workbench
from soda_export.workbench.stages import StageStore
from tests.conftest import OpenBench
from tests.export.selection import label_rows
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


@pytest.mark.parametrize("inpainting", [False, True])
def test_a_start_from_latents_computes_where_the_plan_skips(
    open_bench: OpenBench, tmp_path: Path, inpainting: bool
) -> None:
    bench = open_bench("dpm-solver++", steps=STEPS)
    options = BundleOptions(inpainting=inpainting)
    built = bench.build(bench.plan_of(skipping(bench), "by hand"), "ort", tmp_path / "bundle", options)
    session, starts = Session.open(built.out), freeze_starts(bench.sampler, bench.loaded.scheduler_config)
    assert starts is not None
    noise, labels = noise_for(2, STEPS, False), [1, 2]
    initial = torch.from_numpy(noise.initial)
    clean = torch.randn(initial.shape, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 1, *initial.shape[2:])
    mask[:, :, :3] = 0.0
    region = partial(KnownRegion, after=levels_after(starts), mask=mask, latents=clean, noise=initial)
    for first in range(STEPS):
        asked = {"start_latents": clean.numpy(), "start_step": first}
        if inpainting:
            asked["inputs"] = {"mask": mask.numpy()}
        found = session.generate(labels, noise=noise, **asked)
        expected = run_reference(
            bench.eager, bench.sampler, built.table, label_rows(labels, bench), initial,
            start=Start(starts, first, clean), **({"known": region} if inpainting else {}),
        ).numpy()  # fmt: skip
        assert np.abs(found - expected).max() <= 1e-3 * max(1.0, np.abs(expected).max())
        assert session.playback.cached.isdisjoint({1, 4, 5})


def test_the_first_step_cannot_be_skipped(open_bench: OpenBench, tmp_path: Path) -> None:
    bench = open_bench(steps=STEPS)
    plan = bench.plan_of(Schedule(np.roll(skipping(bench).work, -1, axis=0)), "by hand")
    with pytest.raises(PlanError, match="step 0: skip"):
        bench.build(plan, "ort", tmp_path / "late")


@pytest.mark.parametrize("planner", ["zeus", "sada-static", "skip-fitted", "gram"])
def test_planners_that_skip_bring_their_coefficients(open_bench: OpenBench, planner: str) -> None:
    bench = open_bench(steps=STEPS)
    budget = 6 if planner == "sada-static" else 4
    options = PlanOptions(budget=budget, planner=planner, plan_samples=2)  # type: ignore[arg-type]
    plan = make_plan_for(bench, None, options, ProfileOptions()).plan
    assert plan.coefficients is not None
    assert sum(plan.schedule.skips) == STEPS - budget
    assert bench.completed(plan) is plan
