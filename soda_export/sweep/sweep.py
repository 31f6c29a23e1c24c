"""The sweep, whole: planners x FLOPs ratios x seeds on one model, from a map to rows, tables and a plot."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

from ..bench import BenchOptions
from ..errors import UsageError
from ..eval.options import MOST_BATCH
from ..eval.seeds import check_held_out, parse_seeds
from ..models.load import ModelRequest, builtin_models
from ..models.published import published_models
from ..options import ProfileOptions
from ..plan.plan import describe_sampler, hash_of
from ..plan.planners import PLANNERS
from ..plan.sensitivity import SensitivityMap, map_bytes
from ..plan.solve import PlanOptions, check_max_engines
from ..policy.catalog import POLICIES
from ..search.measuring import check_measuring, for_planning
from ..search.published import MEASURING
from ..workbench.pipeline import Progress, Workbench
from .options import SweepOptions, WorkerOptions
from .plot import plot_sweep
from .rows import RowFile
from .run import check_workers, run_units
from .summary import Summary, summarise_pairs
from .table import write_tables
from .unit import FEWER_STEPS, Setting, Unit

_BEST = "best"
_MAX_RATIO = 1000.0


def make_units(options: SweepOptions, profile_seed: int) -> list[Unit]:
    """Every planner at every target on every range of seeds. Raises UsageError, also where the profile has some of
    their noise, and PlanError where no schedule has so few engines."""
    planners = _words(options.planners, "--planners")
    for planner in planners:
        if planner not in (known := (_BEST, *PLANNERS, *MEASURING, *POLICIES, FEWER_STEPS)):
            raise UsageError(f"--planners {planner}: no such planner; there are {', '.join(known)}")
    if options.against is not None and options.against not in planners:
        raise UsageError(f"--against {options.against}: is not among --planners {options.planners}")
    check_measuring(options.plan_seconds, options.plan_samples)
    check_max_engines(options.max_engines)
    if not 1 <= options.batch <= MOST_BATCH:
        raise UsageError(f"--batch {options.batch}: must be within 1 .. {MOST_BATCH}")
    ranges = [parse_seeds(text) for text in _words(options.seeds, "--seeds")]
    for before, after in pairwise(sorted(ranges, key=lambda seeds: seeds.start)):
        if after.start < before.stop:
            raise UsageError(f"--seeds {options.seeds}: the ranges overlap")
    for seeds in ranges:
        check_held_out(seeds, profile_seed)
    ratios = [_ratio(word) for word in _words(options.flops_ratios, "--flops-ratios")]
    timed = set(planners).difference(POLICIES) if options.bench else set()
    return [
        Unit(planner, ratio, (seeds.start, seeds.stop), planner in timed and seeds is ranges[0])
        for seeds, ratio, planner in product(ranges, ratios, planners)
    ]


def make_setting(
    model: ModelRequest, bench: Workbench, sensitivity: SensitivityMap, profiling: ProfileOptions, options: SweepOptions
) -> Setting:
    """What all units share. Raises PlanError for a map of another sampler, UsageError for prompts or hints that do
    not suit the model."""
    planning = PlanOptions(
        max_engines=options.max_engines, plan_seconds=options.plan_seconds, plan_samples=options.plan_samples,
        fit_sampler=options.fit_sampler,
    )  # fmt: skip
    return Setting(
        _portable(model), bench.options, bench.fit_map(sensitivity), planning, profiling,
        for_planning(bench, profiling).key, bench.store.root.resolve(), options.batch, BenchOptions(),
    )  # fmt: skip


def run_sweep(
    setting: Setting, units: list[Unit], options: SweepOptions, workers: WorkerOptions, progress: Progress
) -> tuple[RowFile, Summary]:
    """Run what has no row yet, then write table.csv, sweep.json, sweep.md and pareto.png. progress counts units."""
    identity = {
        "model": setting.sensitivity.info.model, "sampler": setting.sampler,
        "map": hash_of(map_bytes(setting.sensitivity)), "planning": setting.planning,
        "conditions": setting.conditions,
    }  # fmt: skip
    check_workers(units, workers)
    rows = RowFile(options.out, identity)
    run_units(setting, units, rows, workers, lambda done, total: progress("sweep", done, total))
    summary = summarise_pairs(rows, _main_planner(options))
    info = setting.sensitivity.info
    write_tables(rows, summary, f"{info.model.name}, {describe_sampler(info.sampler)}, guidance {info.guidance:g}")
    plot_sweep(rows, summary.planner, options.out / "pareto.png")
    return rows, summary


def _main_planner(options: SweepOptions) -> str:
    planners = _words(options.planners, "--planners")
    return options.against or (_BEST if _BEST in planners else planners[0])


def _words(text: str, option: str) -> list[str]:
    words = list(dict.fromkeys(word.strip() for word in text.split(",")))
    if not all(words):
        raise UsageError(f"{option} {text}: give names or numbers separated by commas")
    return words


def _ratio(word: str) -> float:
    try:
        ratio = float(word)
    except ValueError:
        ratio = 0.0
    if not 1.0 <= ratio <= _MAX_RATIO:
        raise UsageError(f"--flops-ratios {word}: give numbers of 1 or more, e.g. 1.5,2,3")
    return ratio


def _portable(request: ModelRequest) -> ModelRequest:
    """The same with paths that do not depend on the working folder."""
    weights = None if request.weights is None else request.weights.resolve()
    folder = Path(request.model)
    if request.model in (*builtin_models(), *published_models()) or not folder.is_dir():
        return replace(request, weights=weights)
    return replace(request, model=str(folder.resolve()), weights=weights)
