"""A unit of a sweep: one planner, one target and one range of seeds in, one row of scores out."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..bench import BenchOptions, BenchResult, bench_bundle
from ..eager.hints import hint_ports
from ..errors import PlanError, SodaError, UsageError
from ..eval.compare import Scores, compare_samples
from ..eval.evaluate import PARTS
from ..eval.judges import find_judge
from ..eval.metrics import Interval
from ..eval.sample import ModelSamples, compute_everything
from ..lower.lower import lower_plan
from ..models.load import ModelRequest, load_model
from ..options import ProfileOptions, SamplerOptions
from ..plan.plan import Plan
from ..plan.sensitivity import SensitivityMap
from ..plan.solve import PlanOptions
from ..policy.catalog import FIXED, POLICIES, PolicyName
from ..policy.options import PolicyOptions
from ..search.measuring import make_policy
from ..search.planning import make_plan_for
from ..workbench.pipeline import Workbench
from ..workbench.stages import StageStore

_ON_TARGET = 0.01
FEWER_STEPS = "fewer-steps"
_BACKEND = "ort"
Key = tuple[str, float, str]
"""(planner, target FLOPs ratio, seeds `A:B`)"""


@dataclass(frozen=True)
class Unit:
    """What to do. seeds: first, and one past the last. bench: build the bundle and measure its latency, too.

    plan: one that is there already, from other seeds, and took planning_seconds.
    """

    planner: str
    flops_ratio: float
    seeds: tuple[int, int]
    bench: bool = False
    plan: Plan | None = None
    planning_seconds: float = 0.0

    @property
    def key(self) -> Key:
        """What tells its row from the others."""
        return self.planner, self.flops_ratio, f"{self.seeds[0]}:{self.seeds[1]}"


class SweepRow(msgspec.Struct, frozen=True):
    """What came of it. Figures are None where the planner refused, and where the model has no such judge.

    within_1_percent: whether flops_ratio is that close to the target. calls: of the model in a run, where a policy
    decides; its FLOPs ratio is that of the steps that call it. latency_s, speedup: of the bundle on ONNX
    Runtime, from request to latents. error: the planner's refusal, "" for none.
    """

    planner: str
    target_flops_ratio: float
    seeds: str
    planning_seconds: float = 0.0
    flops_ratio: float | None = None
    within_1_percent: bool | None = None
    rmse: Interval | None = None
    psnr: Interval | None = None
    frechet_real: Interval | None = None
    frechet_reference: Interval | None = None
    accuracy: Interval | None = None
    accuracy_reference: Interval | None = None
    overlap: Interval | None = None
    overlap_reference: Interval | None = None
    calls: Interval | None = None
    latency_s: float | None = None
    speedup: float | None = None
    error: str = ""

    @property
    def key(self) -> Key:
        """The key of its unit."""
        return self.planner, self.target_flops_ratio, self.seeds


@dataclass(frozen=True)
class Finished:
    """A row, and what is not in it: the mean squared error of each sample's latents [n], and the plan. A refusal has
    neither, a policy's row no plan."""

    row: SweepRow
    errors: NDArray[np.float64]
    plan: Plan | None


@dataclass(frozen=True)
class Setting:
    """What all units share: plain data that any process or machine can start from.

    calibration: whose texts `best` measures with. conditions: what tells these from others, and their hints.
    """

    model: ModelRequest
    sampler: SamplerOptions
    sensitivity: SensitivityMap
    planning: PlanOptions
    calibration: ProfileOptions
    conditions: dict[str, Any]
    store: Path
    batch: int
    bench: BenchOptions


class UnitRunner:
    """Runs units one after another; the model is loaded once. threads: of torch, 0 leaves them as they are.

    FEWER_STEPS is no planner: it draws with the same sampler in fewer steps, which costs a user nothing. What it gives
    is compared with the samples of all steps, as every plan's.
    """

    def __init__(self, setting: Setting, threads: int = 0) -> None:
        import torch

        if threads:
            torch.set_num_threads(threads)
        self._loaded, self._setting = load_model(setting.model, PARTS), setting
        self._samples = self._samples_in(setting.sampler.steps)
        self._bench, spec = self._samples.bench, self._loaded.spec
        self._judge = find_judge(spec.name, spec.latent_shape, is_steered=bool(hint_ports(spec)))

    def draw_reference(self, seeds: range) -> None:
        """Leave the unaccelerated samples of `seeds` in the stage store."""
        self._samples.of_reference(seeds, self._setting.batch, lambda *_: None)

    def run(self, unit: Unit) -> Finished:
        """Plan, draw and score. A planner's refusal is a row, too."""
        planner, ratio = unit.planner, unit.flops_ratio
        seeds, batch, started = range(*unit.seeds), self._setting.batch, time.perf_counter()
        if planner in POLICIES:
            return self._decide(unit, planner)
        try:
            plan = unit.plan or self._plan(planner, ratio)
            table = lower_plan(plan, self._loaded.spec)
        except (PlanError, UsageError) as error:
            return _refused(unit, time.perf_counter() - started, error)
        steps, all_steps = plan.sampler.steps, self._setting.sampler.steps
        samples = self._samples if steps == all_steps else self._samples_in(steps)
        reached = table.flops_ratio * all_steps / steps
        seconds = unit.planning_seconds or time.perf_counter() - started
        reference = self._samples.of_reference(seeds, batch, lambda *_: None)
        compared = compare_samples(samples.of_table(table), reference, seeds, batch, judge=self._judge)
        row = _row(unit, seconds, reached, compared.scores)
        if unit.bench:
            measured = self._measure(samples.bench, plan)
            speedup = measured.speedup * all_steps / steps
            row = msgspec.structs.replace(row, latency_s=measured.latency_s, speedup=speedup)
        return Finished(row, compared.errors, plan)

    def _decide(self, unit: Unit, planner: PolicyName) -> Finished:
        """Calibrate a policy for the target, or take it as published, and draw and score what it decides."""
        seeds, batch, started = range(*unit.seeds), self._setting.batch, time.perf_counter()
        steps = self._setting.sampler.steps
        options = PolicyOptions(planner, calls=0.0 if planner in FIXED else steps / unit.flops_ratio)
        try:
            policy = make_policy(self._bench, options, self._setting.calibration)
        except (PlanError, UsageError) as error:
            return _refused(unit, time.perf_counter() - started, error)
        seconds = time.perf_counter() - started
        reference = self._samples.of_reference(seeds, batch, lambda *_: None)
        compared = compare_samples(self._samples.of_policy(policy), reference, seeds, batch, judge=self._judge)
        assert compared.scores.calls is not None
        return Finished(_row(unit, seconds, steps / compared.scores.calls.mean, compared.scores), compared.errors, None)

    def _plan(self, planner: str, ratio: float) -> Plan:
        if planner != FEWER_STEPS:
            return make_plan(self._bench, self._setting, planner, ratio)
        return compute_everything(self._samples_in(max(1, round(self._setting.sampler.steps / ratio))).bench)

    def _samples_in(self, steps: int) -> ModelSamples:
        """Of the sampler in that many steps."""
        store = StageStore(self._setting.store)
        return ModelSamples(
            Workbench(self._loaded, replace(self._setting.sampler, steps=steps), store, lambda *_: None)
        )

    def _measure(self, bench: Workbench, plan: Plan) -> BenchResult:
        """Build the plan's bundle, measure it, and throw it away; its stages stay in the store."""
        folder = bench.store.temporary("tmp", "bench")
        try:
            built = bench.build(plan, _BACKEND, folder)
            return bench_bundle(built.out, self._setting.bench, lambda done, total: None)
        finally:
            bench.store.discard(folder)


def _refused(unit: Unit, seconds: float, error: SodaError) -> Finished:
    """The row of a refusal. Raises the error again where a disk is behind it: that is none, and may be over soon."""
    if isinstance(error.__context__, OSError):
        raise error
    return Finished(SweepRow(*unit.key, seconds, error=" ".join(str(error).split())), np.empty(0), None)


def _row(unit: Unit, seconds: float, reached: float, scores: Scores) -> SweepRow:
    return SweepRow(
        *unit.key, seconds, reached, abs(reached / unit.flops_ratio - 1.0) <= _ON_TARGET, scores.rmse, scores.psnr,
        scores.frechet_real, scores.frechet_reference, scores.accuracy, scores.accuracy_reference, scores.overlap,
        scores.overlap_reference, scores.calls,
    )  # fmt: skip


def make_plan(bench: Workbench, setting: Setting, planner: str, flops_ratio: float) -> Plan:
    """The plan of a planner by name. Raises PlanError where it cannot meet the target."""
    options = replace(setting.planning, planner=planner, flops_ratio=flops_ratio)  # type: ignore[arg-type]
    return make_plan_for(bench, setting.sensitivity, options, setting.calibration).plan
