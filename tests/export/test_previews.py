"""Previews after every step against the clean sample that the eager model's own prediction stands for."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from soda_runtime import RequestError, Session
from soda_runtime.philox import INITIAL_STREAM, latent_noise
from soda_runtime.policy import FULL
from torch import Tensor

from soda_export.eager.adaptive import run_policy
from soda_export.eager.reference import Start, run_reference
from soda_export.eager.sampling import Sampling
from soda_export.options import BundleOptions, ProfileOptions, SamplerOptions
from soda_export.plan.schedule import Schedule, skipped_work
from soda_export.policy.options import PolicyOptions
from soda_export.sampler import KnownRegion, Stepper, freeze_starts, levels_after, make_scheduler
from soda_export.search.measuring import make_policy
from soda_export.workbench.pipeline import Workbench
from soda_export.workbench.stages import StageStore
from tests.conftest import OpenBench
from tests.export.selection import label_rows
from tests.export.test_against_reference import NO_PARTS, noise_for, texts_for
from tests.tiny_models import save_tiny_sd3

STEPS, BAR = 8, 1e-4
LONG = [
    ("ddim", "v_prediction"), ("euler", "v_prediction"), ("euler", "epsilon"), ("dpm-solver++", "sample"),
    ("unipc", "epsilon"), ("ddpm", "v_prediction"),
]  # fmt: skip


class Recorder:
    """A Stepper that keeps what each step of another took for latents and for a prediction."""

    def __init__(self, own: Stepper) -> None:
        self._own = own
        self.timesteps, self.stochastic, self.begin, self.model_input = (
            own.timesteps, own.stochastic, own.begin, own.model_input
        )  # fmt: skip
        self.seen: dict[int, tuple[Tensor, Tensor]] = {}

    def advance(self, step: int, state: Tensor, output: Tensor, noise: Tensor | None) -> Tensor:
        self.seen[step] = state[0].clone(), output[:, : state.shape[2]].clone()
        return self._own.advance(step, state, output, noise)


def clean_of(bench: Workbench, step: int, latents: Tensor, prediction: Tensor) -> Tensor:
    """As the papers have it, with the scheduler's own noise levels."""
    name, config = bench.sampler.name, bench.loaded.scheduler_config
    scheduler = make_scheduler(name, config, bench.sampler.learned_variance)
    if name.startswith("flow"):
        scheduler.set_timesteps(STEPS)
        sigma = float(scheduler.sigmas[step])
        return latents - sigma * prediction
    kind, scale = config.get("prediction_type", "epsilon"), 1.0
    alpha: float = float(scheduler.alphas_cumprod[int(bench.sampler.timesteps[step])]) ** 0.5
    if name.startswith("euler"):
        scheduler.set_timesteps(STEPS)
        alpha = scale = float(scheduler.sigmas[step] ** 2 + 1) ** -0.5
    sigma = math.sqrt(1 - alpha**2)
    if kind == "sample":
        return prediction
    if kind == "v_prediction":
        return alpha * scale * latents - sigma * prediction
    return (scale * latents - sigma * prediction) / alpha


def play(session: Session, labels: list[int] | None = None, **request: Any) -> dict[int, NDArray[np.float32]]:
    """The preview after every step."""
    previews: dict[int, NDArray[np.float32]] = {}
    session.generate(labels, on_step=lambda step: previews.update({step.index: step.preview()}), **request)
    return previews


def check(bench: Workbench, recorder: Recorder, previews: dict[int, NDArray[np.float32]]) -> None:
    assert previews.keys() == recorder.seen.keys()
    for step, seen in recorder.seen.items():
        expected = clean_of(bench, step, *seen).numpy()
        assert np.abs(previews[step] - expected).max() <= BAR * max(1.0, np.abs(expected).max()), step


@pytest.mark.parametrize(
    ("sampler", "kind"),
    [
        ("ddim", "epsilon"), ("euler-ancestral", "v_prediction"), ("flow-euler", ""),
        *(pytest.param(*case, marks=pytest.mark.long) for case in LONG),
    ],
)  # fmt: skip
def test_a_preview_is_the_eager_models_clean_sample(
    open_text_bench: OpenBench, tmp_path: Path, sampler: str, kind: str
) -> None:
    if kind:
        bench = open_text_bench(sampler, STEPS, scheduler={"prediction_type": kind})
    else:
        model, options = str(save_tiny_sd3(tmp_path / "model")), SamplerOptions(sampler, STEPS, 0.0, 4.5)
        bench = Workbench(model, options, StageStore(tmp_path / "store"), lambda *_: None)
    spec = bench.loaded.spec
    plan = bench.plan_of(Schedule.at_anchors(spec, STEPS, (0, 2, 3, 6)), "by hand")
    built = bench.build(plan, "ort", tmp_path / "bundle", NO_PARTS)
    rows, asked = texts_for(bench, 2)
    noise = noise_for(2, STEPS, bench.sampler.stochastic, spec.latent_shape)
    recorder = Recorder(bench.sampler)
    later = None if noise.steps is None else torch.from_numpy(noise.steps)
    run_reference(bench.eager, recorder, built.table, rows, torch.from_numpy(noise.initial), later)
    check(bench, recorder, play(Session.open(built.out), noise=noise, **asked))


@pytest.mark.parametrize("inpainting", [False, True])
def test_skipped_steps_starts_and_masks_have_previews_too(
    open_bench: OpenBench, tmp_path: Path, inpainting: bool
) -> None:
    bench = open_bench("dpm-solver++", steps=STEPS)
    schedule = Schedule.at_anchors(bench.loaded.spec, STEPS, (0, 2, 3, 6))
    schedule.work[[1, 4, 5]] = skipped_work(bench.loaded.spec)
    options = BundleOptions(inpainting=inpainting)
    built = bench.build(bench.plan_of(schedule, "by hand"), "ort", tmp_path / "bundle", options)
    session, starts = Session.open(built.out), freeze_starts(bench.sampler, bench.loaded.scheduler_config)
    assert starts is not None
    noise, labels, rows = noise_for(2, STEPS, False), [1, 2], label_rows([1, 2], bench)
    initial = torch.from_numpy(noise.initial)
    clean = torch.randn(initial.shape, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 1, *initial.shape[2:])
    mask[:, :, :3], mask[:, :, 3] = 0.0, 0.4
    inputs = {"mask": mask.numpy()} if inpainting else {}
    known = partial(KnownRegion, after=levels_after(starts), mask=mask, latents=clean, noise=initial)

    def seen_in(run: Any, stepper: Stepper, kept: Tensor) -> dict[int, Tensor]:
        recorder = Recorder(stepper)
        run(recorder)
        found, latest = {}, initial
        for step, (latents, prediction) in recorder.seen.items():
            skips = run is whole and bool(schedule.skips[step])
            latest = latest if skips else prediction  # a skipped step holds the latest
            found[step] = clean_of(bench, step, latents, latest)
            if inpainting:
                found[step] = mask * found[step] + (1 - mask) * kept
        return found

    def whole(recorder: Recorder) -> None:
        region = partial(known, latents=torch.zeros_like(clean))
        sampling = region if inpainting else lambda stepper: stepper
        run_reference(bench.eager, recorder, built.table, rows, initial, known=sampling)

    def later(recorder: Recorder) -> None:
        start = Start(starts, 3, clean)
        state = starts.begin(bench.sampler, 3, clean, initial)
        sampling = Sampling(bench.eager, bench.eager.place(rows), initial, built.table.guidance, built.table.rows)
        sampling.run(known(recorder) if inpainting else recorder, state=state, first=start.step)

    start = {"start_latents": clean.numpy(), "start_step": 3, "policy": "full"}
    own = bench.completed(bench.plan_of(schedule, "by hand")).coefficients
    cases = [
        (whole, bench.sampler.with_coefficients(own), torch.zeros_like(clean), {}),
        (later, starts.table(bench.sampler, 3), clean, start),
    ]
    for run, stepper, kept, request in cases:
        expected = seen_in(run, stepper, kept)
        previews = play(session, labels, noise=noise, inputs=inputs, **request)
        assert previews.keys() == expected.keys()
        for step, preview in previews.items():
            scale = max(1.0, float(expected[step].abs().max()))
            assert np.abs(preview - expected[step].numpy()).max() <= BAR * scale, (run, step)


def test_a_run_that_decides_has_previews(open_bench: OpenBench, tmp_path: Path) -> None:
    steps, labels = 12, [1, 2, 3]
    bench = open_bench(steps=steps, sampler="dpm-solver++")
    policy = make_policy(bench, PolicyOptions("easycache", calls=7.0, policy_samples=6), ProfileOptions())
    spec = bench.loaded.spec
    plan = bench.plan_of(Schedule.full(spec, steps), "by hand")
    session = Session.open(bench.build(plan, "ort", tmp_path / "out", policy=policy).out, threads=1)
    previews = play(session, labels, seed=5)
    noise = torch.from_numpy(latent_noise(5, INITIAL_STREAM, 3, spec.latent_shape))
    rows = label_rows(labels, bench)
    last: dict[int, Tensor] = {}
    expected = {step: torch.zeros_like(noise) for step in range(steps)}

    def row_of(
        step: int, group: tuple[int, int], state: Tensor, output: Tensor | None, added: Tensor | None, who: list[int]
    ) -> NDArray[np.float32]:
        for k, sample in enumerate(who):
            model_input = bench.sampler.model_input(step, state[:, k])
            if output is not None:
                last[sample] = output[k] - model_input
            expected[step][sample] = clean_of(bench, step, state[0, k], model_input + last[sample])
        table = policy.rows["skip" if group[0] else "full"][step]
        row: NDArray[np.float32] = table[group[1] % len(table)]
        return row

    sampling = Sampling(bench.eager, bench.eager.place(rows), noise, bench.options.guidance, 2)
    assert (run_policy(sampling, policy, row_of=row_of).decisions != FULL).any()
    for step, preview in previews.items():
        scale = max(1.0, float(expected[step].abs().max()))
        assert np.abs(preview - expected[step].numpy()).max() <= BAR * scale, step


def test_a_sampler_that_mixes_no_clean_sample_with_noise_has_no_previews(open_bench: OpenBench, tmp_path: Path) -> None:
    bench = open_bench("pndm", steps=STEPS)
    plan = bench.plan_of(Schedule.full(bench.loaded.spec, bench.sampler.steps), "by hand")
    session = Session.open(bench.build(plan, "ort", tmp_path / "out").out)
    with pytest.raises(RequestError, match="no previews"):
        play(session, [1])
