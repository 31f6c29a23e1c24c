"""Write the golden bundles of the current format version, with inputs and expected latents.

    python scripts/make_golden.py

tests/golden/v<VERSION> is conditioned on labels, v<VERSION>-text on prompts, with text encoder and image decoder;
v<VERSION>-ports is made by hand, of what those models lack: ports of every kind, two tokenizers and text encoders, a
site of two outputs, slots of unequal sizes, latents of four axes, a video; v<VERSION>-chunks, too, whose video is made
chunk by chunk. v<VERSION>-start is a request that starts at
a step from given latents, v<VERSION>-inpaint one that draws inside a mask; v<VERSION>-skip has steps that do not call
the model; v<VERSION>-policy and v<VERSION>-sada decide while they run; v<VERSION>-sizes has two sizes. A golden bundle
is made once per format version and never again: readers of later versions must still open it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from soda_runtime import Session
from soda_runtime.manifest import VERSION
from soda_runtime.philox import INITIAL_STREAM, latent_noise

from soda_export.eager.adaptive import run_policy
from soda_export.eager.reference import Start, run_reference
from soda_export.eager.sampling import Sampling
from soda_export.lower.lower import lower_plan
from soda_export.models.load import ModelRequest
from soda_export.options import BundleOptions, ProfileOptions, SamplerOptions
from soda_export.plan.schedule import Schedule, skipped_work
from soda_export.policy.adaptive import AdaptivePolicy
from soda_export.policy.misfit import make_misfit
from soda_export.policy.sada import make_sada
from soda_export.sampler import KnownRegion, freeze_starts, levels_after
from soda_export.search.gate import fit_fills
from soda_export.search.trial import Trials
from soda_export.workbench.assemble import assemble_bundle
from soda_export.workbench.pipeline import Workbench
from soda_export.workbench.stages import StageStore

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from tests.cpp.chunks_toy import ChunksToy  # noqa: E402
from tests.cpp.ports_toy import LATENTS, PortsToy  # noqa: E402
from tests.tiny import (  # noqa: E402
    LAYERS,
    TOKENS,
    forecasting_schedule,
    make_plan,
    mixed_kept,
    save_tiny_model,
    save_tiny_pixart,
)

LABELS, SEED, START_STEP = [3, 7], 1234, 3
THRESHOLD = 2e-3  # of misfit, where the two samples decide differently
PROMPTS, NEGATIVE = ["a red circle", "a blue square above a red circle"], "blue"


def main() -> None:
    label_options, text_options = SamplerOptions("ddim", 10, 1.0, 1.5), SamplerOptions("dpm-solver++", 10, 0.0, 4.5)
    request = {"prompt": PROMPTS, "negative_prompt": NEGATIVE}
    makers: dict[str, Callable[[Path], None]] = {
        "": lambda out: make(out, save_tiny_model, label_options, {"labels": LABELS}, label_rows),
        "-text": lambda out: make(out, save_tiny_pixart, text_options, request, encode),
        "-ports": make_ports,
        "-chunks": make_chunks,
        "-start": make_start,
        "-inpaint": make_inpaint,
        "-skip": make_skip,
        "-policy": lambda out: make_adaptive(out, make_misfit_policy, "ddim", 12),
        "-sada": lambda out: make_adaptive(out, make_sada_policy, "dpm-solver++", 16),
        "-sizes": make_sizes,
    }
    missing = {suffix: ROOT / f"tests/golden/v{VERSION}{suffix}" for suffix in makers}
    missing = {suffix: out for suffix, out in missing.items() if not out.exists()}
    if not missing:
        sys.exit("all of them exist: a golden bundle is never remade; raise the format version instead")
    for suffix, out in missing.items():
        makers[suffix](out)


def label_rows(bench: Workbench) -> dict[str, torch.Tensor]:
    port = bench.loaded.spec.port("label")
    assert port is not None
    return {port.name: torch.tensor([*LABELS, *[port.null_class] * len(LABELS)])}


def encode(bench: Workbench) -> Mapping[str, torch.Tensor]:
    return bench.components.encode([*PROMPTS, NEGATIVE, NEGATIVE]).positive


def make(
    out: Path, save: Callable[[Path], Path], options: SamplerOptions, request: dict[str, object],
    condition: Callable[[Workbench], Mapping[str, torch.Tensor]],
) -> None:  # fmt: skip
    """Build a toy model with steps of every kind, and play it to compare with the reference."""
    with tempfile.TemporaryDirectory() as scratch:
        model = save(Path(scratch) / "tiny")
        store = StageStore(Path(scratch) / "work")
        bench = Workbench(str(model), options, store, lambda *_: None)
        spec = bench.loaded.spec
        grid = forecasting_schedule(modules=len(spec.kinds) - 1)
        plan = make_plan(spec, grid.kept, options.sampler, options.eta, options.guidance, stack=grid.stack)
        table = bench.build(replace(plan, coefficients=fit(bench, plan.schedule)), "ort", out).table
        rows = condition(bench)
    initial = latent_noise(SEED, INITIAL_STREAM, 2, spec.latent_shape)
    steps = np.stack([latent_noise(SEED, 1 + i, 2, spec.latent_shape) for i in range(options.steps)])
    reference = run_reference(
        bench.eager, bench.sampler, table, rows, torch.from_numpy(initial), torch.from_numpy(steps)
    ).numpy()
    session = Session.open(out)
    played = session.generate(**request, seed=SEED)
    print(f"{out}: largest difference from the reference {np.abs(played - reference).max():.2e}")
    expected = {"latents": reference, **({"images": session.images()} if "prompt" in request else {})}
    np.savez(out.with_suffix(".npz"), seed=SEED, **request, **expected)


def make_sizes(out: Path) -> None:
    """A toy model of text at two sizes; latents.HxW are those of the second."""
    options, results = SamplerOptions("dpm-solver++", 8, 0.0, 4.5), {}
    with tempfile.TemporaryDirectory() as scratch:
        model, store = save_tiny_pixart(Path(scratch) / "tiny", num_layers=1), StageStore(Path(scratch) / "work")
        first, other = (
            Workbench(ModelRequest(str(model), size=(size,)), options, store, lambda *_: None)
            for size in ("16x16", "8x24")
        )
        plan = make_plan(first.loaded.spec, mixed_kept(layers=1, modules=3), options.sampler, 0.0, options.guidance)
        sized = [(first, plan), (other, other.carried(plan, first))]
        assemble_bundle(sized, "ort", out)
        rows = encode(first)
        for bench, each in sized:
            initial = torch.from_numpy(latent_noise(SEED, INITIAL_STREAM, 2, bench.loaded.spec.latent_shape))
            table = lower_plan(each, bench.loaded.spec)
            name = "latents" if bench is first else "latents.{}x{}".format(*bench.loaded.size)
            results[name] = run_reference(bench.eager, bench.sampler, table, rows, initial).numpy()
    request = {"prompt": PROMPTS, "negative_prompt": NEGATIVE}
    session = Session.open(out)
    for size, reference in zip(session.bundle.sizes, results.values(), strict=True):
        played = session.generate(**request, seed=SEED, size=size)
        print(f"{out}, {size}: largest difference from the reference {np.abs(played - reference).max():.2e}")
    np.savez(out.with_suffix(".npz"), seed=SEED, **request, **results)


def make_start(out: Path) -> None:
    """A toy model with a multistep sampler, started where two steps would reuse what is not there."""
    with tempfile.TemporaryDirectory() as scratch:
        model, store = save_tiny_model(Path(scratch) / "tiny"), StageStore(Path(scratch) / "work")
        bench = Workbench(str(model), SamplerOptions("unipc", 8, 0.0, 1.5), store, lambda *_: None)
        plan = make_plan(bench.loaded.spec, mixed_kept(), "unipc")
        table = bench.build(plan, "ort", out).table
        rows, starts = label_rows(bench), freeze_starts(bench.sampler, bench.loaded.scheduler_config)
        shape = bench.loaded.spec.latent_shape
        latents, initial = (latent_noise(SEED, stream, 2, shape) for stream in (100, INITIAL_STREAM))
        assert starts is not None
        start = Start(starts, START_STEP, torch.from_numpy(latents))
        reference = run_reference(
            bench.eager, bench.sampler, table, rows, torch.from_numpy(initial), start=start
        ).numpy()
    request = {"labels": LABELS, "start_latents": latents, "start_step": START_STEP}
    played = Session.open(out).generate(**request, seed=SEED)
    print(f"{out}: largest difference from the reference {np.abs(played - reference).max():.2e}")
    np.savez(out.with_suffix(".npz"), seed=SEED, **request, latents=reference)


def make_inpaint(out: Path) -> None:
    """A toy model that draws inside a mask of soft edges, from step 1 on."""
    kept = np.full((6, LAYERS, 2), TOKENS)
    kept[[1, 3, 5]] = 0
    with tempfile.TemporaryDirectory() as scratch:
        model, store = save_tiny_model(Path(scratch) / "tiny"), StageStore(Path(scratch) / "work")
        bench = Workbench(str(model), SamplerOptions("dpm-solver++", 6, 0.0, 1.5), store, lambda *_: None)
        plan = make_plan(bench.loaded.spec, kept, "dpm-solver++")
        table = bench.build(plan, "ort", out, BundleOptions(inpainting=True)).table
        rows, starts = label_rows(bench), freeze_starts(bench.sampler, bench.loaded.scheduler_config)
        shape = bench.loaded.spec.latent_shape
        latents, initial = (latent_noise(SEED, stream, 2, shape) for stream in (100, INITIAL_STREAM))
        mask = np.random.default_rng(SEED).integers(0, 5, (2, 1, *shape[1:])).astype(np.float32) / 4
        assert starts is not None
        region = partial(
            KnownRegion, after=levels_after(starts), mask=torch.from_numpy(mask), latents=torch.from_numpy(latents),
            noise=torch.from_numpy(initial),
        )  # fmt: skip
        start = Start(starts, 1, torch.from_numpy(latents))
        reference = run_reference(
            bench.eager, bench.sampler, table, rows, torch.from_numpy(initial), start=start, known=region
        ).numpy()
    request = {"labels": LABELS, "start_latents": latents, "start_step": 1}
    played = Session.open(out).generate(**request, inputs={"mask": mask}, seed=SEED)
    print(f"{out}: largest difference from the reference {np.abs(played - reference).max():.2e}")
    np.savez(out.with_suffix(".npz"), seed=SEED, **request, **{"inputs.mask": mask}, latents=reference)


def make_skip(out: Path) -> None:
    """A toy model under a stochastic sampler, some of whose steps do not call it."""
    with tempfile.TemporaryDirectory() as scratch:
        model, store = save_tiny_model(Path(scratch) / "tiny"), StageStore(Path(scratch) / "work")
        bench = Workbench(str(model), SamplerOptions("ddim", 8, 1.0, 1.5), store, lambda *_: None)
        spec = bench.loaded.spec
        schedule = Schedule.at_anchors(spec, 8, (0, 1, 3, 6))
        schedule.work[[2, 4, 5]] = skipped_work(spec)
        plan = replace(bench.plan_of(schedule, "by hand"), coefficients=fit(bench, schedule))
        table, rows = bench.build(plan, "ort", out).table, label_rows(bench)
        initial = latent_noise(SEED, INITIAL_STREAM, 2, spec.latent_shape)
        steps = np.stack([latent_noise(SEED, 1 + i, 2, spec.latent_shape) for i in range(8)])
        reference = run_reference(
            bench.eager, bench.sampler, table, rows, torch.from_numpy(initial), torch.from_numpy(steps)
        ).numpy()
    played = Session.open(out).generate(labels=LABELS, seed=SEED)
    print(f"{out}: largest difference from the reference {np.abs(played - reference).max():.2e}")
    np.savez(out.with_suffix(".npz"), seed=SEED, labels=LABELS, latents=reference)


def make_adaptive(
    out: Path, policy_of: Callable[[Workbench], AdaptivePolicy], sampler: str, steps: int
) -> None:
    """A toy model whose samples decide for themselves which steps call it."""
    with tempfile.TemporaryDirectory() as scratch:
        model, store = save_tiny_model(Path(scratch) / "tiny"), StageStore(Path(scratch) / "work")
        bench = Workbench(str(model), SamplerOptions(sampler, steps, 0.0, 1.5), store, lambda *_: None)
        spec, policy = bench.loaded.spec, policy_of(bench)
        schedule = Schedule.at_anchors(spec, steps, range(0, steps, 3))
        bench.build(bench.plan_of(schedule, "by hand"), "ort", out, policy=policy)
        initial = latent_noise(SEED, INITIAL_STREAM, 2, spec.latent_shape)
        inputs = bench.eager.place(label_rows(bench))
        sampling = Sampling(bench.eager, inputs, torch.from_numpy(initial), bench.options.guidance, 2)
        reference = run_policy(sampling, policy)
    session = Session.open(out)
    played = session.generate(labels=LABELS, seed=SEED)
    print(f"{out}: {reference.decisions.T.tolist()}")
    print(f"{out}: same decisions: {np.array_equal(session.decisions, reference.decisions)}; largest difference from "
          f"the reference {np.abs(played - reference.latents.numpy()).max():.2e}")  # fmt: skip
    np.savez(
        out.with_suffix(".npz"), seed=SEED, labels=LABELS, latents=reference.latents.numpy(),
        decisions=reference.decisions,
    )  # fmt: skip


def make_misfit_policy(bench: Workbench) -> AdaptivePolicy:
    conditions = bench.calibration(ProfileOptions()).conditions()
    trials = Trials(bench.eager, bench.sampler, bench.identity, bench.options.guidance, conditions, range(4))
    fills, misfits = fit_fills(*trials.full_run())
    return make_misfit(bench.sampler, fills, misfits, np.linspace(2.0, 1.0, bench.sampler.steps) * THRESHOLD)


def make_sada_policy(bench: Workbench) -> AdaptivePolicy:
    return make_sada(bench.sampler, bench.loaded.scheduler_config)


def make_ports(out: Path) -> None:
    """A hand-made bundle, and what numpy makes of the same request."""
    toy = PortsToy()
    toy.write(out)
    generator, half = np.random.default_rng(1), {}
    for name in ("ids_a", "mask_a", "ids_b", "hint", "hint_mask"):
        port = next(port for port in toy.manifest()["ports"] if port["name"] == name)
        most = 2 if "mask" in name else 5
        numbers = generator.integers(0, most, (2, 2, *port["shape"]))
        half[name] = numbers if port["dtype"] == "int64" else numbers.astype(np.float32) / 4
    inputs: dict[str, NDArray[Any]] = {name: values[0] for name, values in half.items()}
    negative = {name: values[1] for name, values in half.items() if name != "hint"}  # both rows have the same one
    inputs |= {"style": np.array([3, 1]), "speed": np.array([0.25, 1.5], np.float32)}
    rows = {name: np.concatenate([inputs[name], negative.get(name, inputs[name])]) for name in half}
    rows |= {"style": np.array([3, 1, 5, 5]), "speed": np.tile(inputs["speed"], 2)}
    latents = toy.play(rows, latent_noise(SEED, INITIAL_STREAM, 2, LATENTS))
    session = Session.open(out)
    played = session.generate(inputs=inputs, negative_inputs=negative, seed=SEED)
    print(f"{out}: largest difference from the reference {np.abs(played - latents).max():.2e}")
    stored = {f"inputs.{name}": values for name, values in inputs.items()}
    stored |= {f"negative_inputs.{name}": values for name, values in negative.items()}
    np.savez(out.with_suffix(".npz"), seed=SEED, **stored, latents=latents, video=toy.finish(latents))


def make_chunks(out: Path) -> None:
    """A hand-made bundle whose decoder makes chunks, and what numpy makes of the whole clip."""
    toy = ChunksToy()
    toy.write(out)
    latents = toy.play(LABELS, latent_noise(SEED, INITIAL_STREAM, 2, toy.latent_shape))
    played = Session.open(out).generate(LABELS, seed=SEED)
    print(f"{out}: largest difference from the reference {np.abs(played - latents).max():.2e}")
    np.savez(out.with_suffix(".npz"), seed=SEED, labels=LABELS, latents=latents, video=toy.finish(latents))


def fit(bench: Workbench, schedule: Schedule) -> NDArray[np.float32]:
    """Coefficients of the sampler for the schedule."""
    conditions = bench.calibration(ProfileOptions()).conditions()
    trials = Trials(bench.eager, bench.sampler, bench.identity, bench.options.guidance, conditions, range(4))
    return trials.fit_sampler(schedule).coefficients


if __name__ == "__main__":
    main()
