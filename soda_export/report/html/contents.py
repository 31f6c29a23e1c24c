"""Put a report together: of a bundle from its files, a measurement and samples; of a sweep from its sweep.json."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soda_runtime import Session
from soda_runtime.errors import RequestError
from soda_runtime.manifest import Manifest
from soda_runtime.printable import printable

from ...bench.result import BenchOptions, BenchResult
from ...plan.sensitivity import read_map
from . import bundle as parts
from .grid import draw_grid
from .heat import draw_map
from .page import Figure, Report
from .samples import Played, play_samples
from .sweep import compare_planners, draw_sweep, read_sweep

_ROUNDS = 5  # of a measurement that is made on the way
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Wanted:
    """requests: title and arguments of each sample, none where nothing says what to draw; None: no samples are wanted.
    asked: whether someone chose them; others that the bundle does not take are left out. bench, sweep, map: files, as
    `soda-export report` takes them; measure: measure now."""

    requests: Sequence[tuple[str, dict[str, Any]]] | None
    asked: bool = True
    seed: int = 0
    bench: Path | None = None
    measure: bool = False
    sweep: Path | None = None
    map: Path | None = None
    device: str = "auto"


def report_sweep(path: Path) -> Report:
    """Raises UsageError where `path` is no sweep.json, or nothing of it can be drawn."""
    found = read_sweep(path)
    best, headline = found.compared.planner, []
    rivals = [(pair.geometric_mean, pair.other) for pair in found.compared.pairs if pair.geometric_mean is not None]
    if rivals:
        of, other = max(rivals, key=lambda rival: rival[0].mean)
        note = f"of {best} against its closest rival, {of.low:.2f} to {of.high:.2f}"
        headline.append(Figure(f"{of.mean:.2f}", f"times the RMSE of {other}", note))
    headline.append(Figure(str(len({row.planner for row in found.rows})), "planners"))
    headline.append(Figure(str(len({row.target_flops_ratio for row in found.rows})), "FLOPs ratios"))
    refused = dict.fromkeys(f"{row.planner} at {row.target_flops_ratio:g}: {row.error}" for row in found.refused)
    return Report(
        title=printable(f"Planners on {found.of}"), subtitle="Error of accelerated samples against unaccelerated ones.",
        headline=tuple(headline), sweep=draw_sweep(found), comparisons=compare_planners(found),
        missing=tuple(printable(line) for line in refused),
    )  # fmt: skip


def report_bundle(folder: Path, manifest: Manifest, wanted: Wanted, progress: Progress) -> Report:
    """Raises UsageError for a file that is not what it should be, PlanError for a map that cannot be read, RequestError
    for samples that the bundle cannot draw."""
    described = parts.describe_bundle(folder, manifest)
    bench = parts.read_bench(wanted.bench, manifest) if wanted.bench is not None else None
    sweep = read_sweep(wanted.sweep) if wanted.sweep is not None else None
    sensitivity = read_map(wanted.map) if wanted.map is not None else None
    if sensitivity is None and described.plan is not None:
        sensitivity = parts.find_map(described.plan, folder)
    played, missing = _play(folder, manifest, wanted, progress)
    if wanted.measure:
        bench = _measure(folder, wanted.device, progress)
    if bench is None:
        missing.append("latency, memory in use, machine: give --bench with the output of soda-export bench --json, or "
                       "--measure")  # fmt: skip
    if described.plan is None:
        missing.append("schedule: the bundle has no plan.json")
    if sensitivity is None:
        missing.append("sensitivity: the plan was made without a map, or engines/.work has it no more; give one with "
                       "--map")  # fmt: skip
    heats, scale = draw_map(sensitivity) if sensitivity is not None else ([], "")
    error = None
    if played and bench is None:
        error = played.rmse, played.relative, f"of the {len(played.samples.samples)} samples shown here"
    title = f"{manifest.sampler.name}, {manifest.sampler.steps} steps, for {manifest.backend} in {manifest.precision}"
    return Report(
        title=parts.title_of(manifest), subtitle=printable(title), headline=parts.headline(described, bench, error),
        facts=parts.facts_of(described),
        samples=played.samples if played else None,
        sweep=draw_sweep(sweep) if sweep else (),
        comparisons=compare_planners(sweep) if sweep else None,
        schedule=draw_grid(described.plan.schedule, described.plan.model) if described.plan else None,
        decisions=played.decisions if played else None,
        latency=parts.draw_latency(described, bench) if bench else None,
        memory=parts.draw_memory(described, bench),
        heats=tuple(heats), heat_scale=scale,
        machine=parts.machine_of(bench) if bench else None,
        missing=tuple(printable(line) for line in missing),
    )  # fmt: skip


def _play(folder: Path, manifest: Manifest, wanted: Wanted, progress: Progress) -> tuple[Played | None, list[str]]:
    """The samples, or why there are none. Raises RequestError where the bundle does not take what was asked for."""
    requests = wanted.requests
    if requests is None:
        return None, []
    if manifest.result_kind not in ("image", "video"):
        return None, [f"samples: this bundle makes {manifest.result_kind or 'latents'}, of which there is no picture"]
    if not requests:
        return None, ["samples: this bundle draws from text; give --prompt, several times for several samples"]
    try:
        with Session.open(folder, device=wanted.device) as session:
            return play_samples(session, requests, wanted.seed, lambda n: progress("samples", n, len(requests))), []
    except RequestError as error:
        if wanted.asked:
            raise
        return None, [f"samples: {error}"]


def _measure(folder: Path, device: str, progress: Progress) -> BenchResult:
    from ...bench import bench_bundle

    options = BenchOptions(batch=1, rounds=_ROUNDS, device=device)
    return bench_bundle(folder, options, lambda done, total: progress("bench", done, total))
