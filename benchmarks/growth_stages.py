"""What growth.py measures at one point: a small PixArt with random weights, built stage by stage, opened and played."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from process_cost import Costs

BACKENDS = ("ort", "openvino")


class Point(NamedTuple):
    """layers: blocks of the model. steps: of the sampler. programs: of the schedule. tokens: of the latents."""

    layers: int = 4
    steps: int = 32
    programs: int = 4
    tokens: int = 64


def save_model(folder: Path, point: Point) -> Path:
    """A diffusers folder: PixArt of width 64 with captions of 8 tokens, no autoencoder and no text encoder."""
    import torch
    from diffusers import DDIMScheduler, PixArtTransformer2DModel

    torch.manual_seed(0)
    model = PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=32, in_channels=4, out_channels=8, num_layers=point.layers,
        cross_attention_dim=64, caption_channels=16, sample_size=2 * round(point.tokens**0.5), patch_size=2,
    )  # fmt: skip
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    model.save_pretrained(folder / "transformer")
    DDIMScheduler(clip_sample=False).save_pretrained(folder / "scheduler")
    classes = {"transformer": ["diffusers", "PixArtTransformer2DModel"], "scheduler": ["diffusers", "DDIMScheduler"]}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "PixArtAlphaPipeline", **classes}))
    return folder


def schedule_of(spec: Any, point: Point) -> Any:
    """Everything at even steps; at odd ones the other programs by turns. Each computes a half of the leaf sites; of the
    rest it renews a quarter of the feed-forwards' tokens and reuses the others."""
    import numpy as np

    from soda_export.plan.schedule import Schedule

    drawn, kinds = np.random.default_rng(0), dict[bytes, Any]()
    leaves = np.array(spec.leaves)
    while len(kinds) < point.programs - 1:
        work = Schedule.full(spec, 1).work[0]
        for k in drawn.permutation(leaves)[: len(leaves) // 2]:
            work[k] = spec.sites[k].tokens // 4 if spec.sites[k].kind == "ff" else 0
        kinds.setdefault(work.tobytes(), work)
    schedule = Schedule.full(spec, point.steps).work
    for i, step in enumerate(range(1, point.steps, 2)):
        schedule[step] = list(kinds.values())[i % len(kinds)]
    return Schedule.of(spec, schedule)


def build(point: Point, folder: Path, backends: Sequence[str], misfit: bool) -> dict[str, Any]:
    """Costs of every stage up to a bundle `folder`/NAME for each backend."""
    from soda_export.lower.lower import lower_plan
    from soda_export.models.load import load_model
    from soda_export.models.request import ModelRequest
    from soda_export.options import BundleOptions, ProfileOptions, SamplerOptions
    from soda_export.plan.solve import PlanOptions, solve_plan
    from soda_export.workbench.pipeline import Workbench
    from soda_export.workbench.stages import StageStore

    costs, options = Costs(), SamplerOptions("ddim", point.steps, 0.0, 1.5)

    class TimedStore(StageStore):
        def produce(self, stage: str, inputs: Any, make: Any) -> Path:
            named = {"export": "export", **{f"engines-{name}": f"compile, {name}" for name in BACKENDS}}.get(stage)
            return super().produce(stage, inputs, make if named is None else lambda out: costs.once(named, make, out))

    path = str(save_model(folder / "model", point))
    loaded = costs.least("describe", load_model, ModelRequest(path))
    bench = Workbench(loaded, options, TimedStore(folder / "work"), lambda *_: None)
    bench.eager.module.requires_grad_(False)
    found = costs.once("profile", bench.profile, ProfileOptions(samples=2))
    costs.least(
        "plan", solve_plan, found, loaded.spec,
        PlanOptions(planner="soda", flops_ratio=2.0, max_engines=point.programs),
    )  # fmt: skip
    if misfit:
        costs.once("misfit", calibrate, bench)
    plan = bench.plan_of(schedule_of(loaded.spec, point), "growth")
    costs.least("lower", lower_plan, plan, loaded.spec)
    without = BundleOptions(without=("text-encoder", "decoder"))
    for name in backends:
        bench.build(plan, name, folder / name, without)
        again = folder / f"{name}-again"
        costs.once(f"pack, {name}", bench.build, plan, name, again, without)  # all stages are there
    return costs.found


def plan_alone(point: Point) -> dict[str, Any]:
    """Costs of planning and lowering, without a model."""
    from soda_export.lower.lower import lower_plan
    from soda_export.plan.solve import PlanOptions, solve_plan
    from tests.plan.problems import blocks_spec, made_up_map, plan_of

    spec = blocks_spec(
        "made-up", "pixart", layers=point.layers, tokens=point.tokens, width=64, heads=2, ff_width=256, text_tokens=8
    )
    costs, options = Costs(), PlanOptions(planner="soda", flops_ratio=2.0, max_engines=point.programs)
    costs.least("plan", solve_plan, made_up_map(spec, "ddim", point.steps, 1.5), spec, options)
    costs.least("lower", lower_plan, plan_of(spec, schedule_of(spec, point).work), spec)
    return costs.found


def calibrate(bench: Any) -> None:
    """What a misfit policy is made of, without the search for its threshold."""
    from soda_export.options import ProfileOptions
    from soda_export.policy.misfit import make_misfit
    from soda_export.search.gate import fit_fills, weigh_steps
    from soda_export.search.trial import Trials

    conditions = bench.calibration(ProfileOptions(samples=2)).conditions()
    trials = Trials(bench.eager, bench.sampler, bench.identity, bench.options.guidance, conditions, range(2))
    states, predictions = trials.full_run()
    fills, misfits = fit_fills(states, predictions)
    weights = weigh_steps(trials.sampling, trials.sampler, states, predictions, fills)
    make_misfit(trials.sampler, fills, misfits, 1e-3 / weights)


def play(bundle: Path) -> dict[str, Any]:
    """Costs of opening a bundle with all its engines, of the first generation, which allocates, and of a later one."""
    from soda_runtime import Session
    from soda_runtime.request import example_request

    costs, name = Costs(), bundle.name

    def open_all() -> Session:
        session = Session.open(bundle, threads=1)
        for program in range(len(session.bundle.manifest.programs)):
            session.bundle.engine(program)
        return session

    Session.open(bundle, threads=1).close()  # loads the library, and remembers that the weights are whole
    session = costs.once(f"open, {name}", open_all)
    request = example_request(session.bundle, 1)
    costs.once(f"first generation, {name}", lambda: session.generate(**request, seed=0))
    costs.least(f"generate, {name}", lambda: session.generate(**request, seed=0))
    return costs.found
