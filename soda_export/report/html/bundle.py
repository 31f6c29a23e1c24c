"""A bundle -> what its report says of it: facts, figures, schedule, latency, memory, machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
from soda_runtime.manifest import Manifest
from soda_runtime.policy import read_rules
from soda_runtime.printable import printable

from ...bench.result import BenchResult
from ...errors import PlanError, UsageError
from ...plan.plan import Plan, hash_of, read_plan
from ...plan.sensitivity import SensitivityMap, read_map
from ..describe import (
    describe_policy,
    describe_precision,
    describe_request,
    describe_result,
    describe_sampler,
    describe_starts,
    full_steps_by_start,
    megabytes,
    shape_words,
)
from .charts import Bar, draw_bars, draw_parts
from .grid import step_class
from .page import Chart, Figure, Table

_KINDS = {"c": "everything computed", "m": "some computed", "r": "reused or forecast", "s": "skipped"}
_MAPS = "map-*/map.safetensors"


@dataclass(frozen=True)
class Described:
    """An open bundle's files. plan: None where it was packed without one."""

    folder: Path
    manifest: Manifest
    plan: Plan | None


def describe_bundle(folder: Path, manifest: Manifest) -> Described:
    """Read what lies beside the manifest. Raises PlanError."""
    path = folder / "plan.json"
    return Described(folder, manifest, read_plan(path) if path.is_file() else None)


def read_bench(path: Path, manifest: Manifest) -> BenchResult:
    """What `soda-export bench --json` printed. Raises UsageError where it is of another bundle."""
    try:
        result = msgspec.json.decode(path.read_bytes(), type=BenchResult)
    except OSError as error:
        raise UsageError(f"--bench {path}: cannot be read ({error.strerror})") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise UsageError(f"--bench {path}: not what `soda-export bench --json` prints ({error})") from None
    if len(result.steps_s) != manifest.sampler.steps:
        raise UsageError(
            f"--bench {path}: is of a bundle with {len(result.steps_s)} steps, not {manifest.sampler.steps}; "
            "measure this one"
        )
    return result


def find_map(plan: Plan, folder: Path) -> SensitivityMap | None:
    """The map that the plan came from, in the stage stores beside the bundle and in the working folder."""
    for store in dict.fromkeys(((folder.resolve().parent / ".work"), Path("engines/.work").resolve())):
        for path in sorted(store.glob(_MAPS)):
            try:
                if plan.map_hash and hash_of(path.read_bytes()) == plan.map_hash:
                    return read_map(path)
            except (OSError, PlanError):
                continue
    return None


def title_of(manifest: Manifest) -> str:
    """The model's name and what is done to it."""
    return f"{printable(manifest.model.name)}: {manifest.flops_ratio:.2f} times less computing"


def headline(
    bundle: Described, bench: BenchResult | None, error: tuple[float, float, str] | None
) -> tuple[Figure, ...]:
    """error: RMSE, the same as a share, and how it was found; the bench's where it is None."""
    manifest = bundle.manifest
    figures = []
    if bench:
        low, high = bench.speedup_interval
        figures += [
            Figure(f"{bench.speedup:.2f}x", "speedup", f"{low:.2f} to {high:.2f}, against computing everything"),
            Figure(_seconds(bench.latency_s), "latency", f"batch {bench.batch}; {_seconds(bench.baseline_latency_s)} "
                                                         "computing everything"),
        ]  # fmt: skip
    figures.append(Figure(f"{manifest.flops_ratio:.2f}x", "fewer FLOPs", "of the denoiser's, over all steps"))
    if error is None and bench:
        error = bench.error.rmse, bench.error.relative, f"of the {bench.batch * bench.rounds} samples measured"
    if error:
        found = f"RMSE {error[0]:.4f}, {error[2]}"
        figures.append(Figure(f"{100 * error[1]:.1f} %", "difference of the latents", found))
    if bundle.plan:
        anchors = len(bundle.plan.anchors)
        figures.append(Figure(f"{anchors} of {manifest.sampler.steps}", "steps compute everything"))
    used = len({step.program for step in manifest.steps})
    figures.append(Figure(str(used), "engines", "that share one copy of the weights"))
    return tuple(figures)


def facts_of(bundle: Described) -> Table:
    """What was built, from which model."""
    manifest, folder = bundle.manifest, bundle.folder
    model = manifest.model
    rows = [
        ("model", f"{model.name}, family {model.family}, {model.sites} sites"),
        ("latents", shape_words(model.latent_shape)),
        ("configuration and weights", f"SHA-256 {model.hash}"),
        ("takes", describe_request(manifest)),
        ("gives", describe_result(manifest)),
        ("sampler", describe_sampler(manifest)),
        ("starts", describe_starts(full_steps_by_start(folder, manifest))),
        ("engine library", manifest.backend),
        ("precision", describe_precision(folder, manifest)),
    ]
    if bundle.plan and bundle.plan.made_by:
        rows.append(("planned by", bundle.plan.made_by))
    if bundle.plan and bundle.plan.held_out:
        rows.append(("held out", bundle.plan.held_out.words))
    policy = read_rules(folder, manifest)
    if policy is not None:
        rows.append(("policy", describe_policy(policy)))
    rows += [("bundle", folder.resolve().name), ("built with", manifest.builder)]
    return Table((), tuple((name, printable(text)) for name, text in rows))


def draw_latency(bundle: Described, bench: BenchResult) -> Chart:
    """A bar a step."""
    classes = ["c"] * len(bench.steps_s)
    if bundle.plan and bench.policy is None:
        schedule = bundle.plan.schedule
        classes = [step_class(w, skipped) for w, skipped in zip(schedule.work, schedule.skips, strict=True)]
    full = 1e3 * bench.baseline_step.median
    bars = [
        Bar(1e3 * seconds, kind, f"Step {step}: {1e3 * seconds:.2f} ms, {100e3 * seconds / full:.0f} % of a full step.")
        for step, (seconds, kind) in enumerate(zip(bench.steps_s, classes, strict=True))
    ]
    words = f"A step that computes everything: {full:.2f} ms."
    text = (
        f"Medians of {bench.rounds} generations of {bench.batch} sample{'s' * (bench.batch > 1)}; from request to "
        f"latents {_seconds(bench.latency_s)}, {_seconds(bench.baseline_latency_s)} computing everything. The dashed "
        "line is a step that computes everything."
    )
    if bench.policy:
        name, calls = printable(bench.policy.name), bench.policy.calls
        text += f" The policy {name} called the model {calls:.1f} times on average."
    table = Table(
        ("step", "ms", "of a full step"),
        tuple((str(i), f"{bar.value:.2f}", f"{100 * bar.value / full:.1f} %") for i, bar in enumerate(bars)),
    )
    legend = tuple((kind, words) for kind, words in _KINDS.items() if kind in classes)
    picture = draw_bars(bars, full, words, "ms", f"Latency of {len(bars)} steps; the table below has the figures.")
    return Chart(picture, table, legend if len(legend) > 1 else (), text)


def draw_memory(bundle: Described, bench: BenchResult | None) -> Chart:
    """What lies on disk and in memory. Engines: the program files."""
    manifest = bundle.manifest
    programs = {program.file for program in manifest.programs} | {program.file for program in manifest.prepare}
    engines = sum(manifest.files[name].bytes for name in programs)
    weights = sum(manifest.files[name].bytes for name in manifest.weights)
    files = sum(entry.bytes for entry in manifest.files.values())
    parts = [("weights file", weights), ("engine files", engines), ("other files", files - weights - engines)]
    arena = manifest.arena
    text = f"The bundle takes {megabytes(files)} on disk. "
    if bench:
        memory = bench.memory_bytes
        parts += [
            (f"cache arena, batch {bench.batch}", memory.arena), ("activations", memory.activations),
            ("weights resident", memory.weights_resident), ("peak of the process", memory.peak),
        ]  # fmt: skip
    else:
        parts.append(("cache arena, a sample", arena.bytes))
    text += f"The cache takes {megabytes(arena.bytes)} a sample"
    if arena.bytes:
        text += f"; no layout takes less than {megabytes(arena.lower_bound_bytes)}, a place for every value " \
                f"{megabytes(arena.naive_bytes)}"  # fmt: skip
    shown = [(name, size / 1e6) for name, size in parts]
    picture = draw_parts(shown, "{:.2f} MB", "Sizes of the bundle's parts; the table below has them.")
    table = Table(("part", "bytes"), tuple((name, f"{size:,}".replace(",", " ")) for name, size in parts))
    return Chart(picture, table, (), f"{text}.")


def machine_of(bench: BenchResult) -> Table:
    """Of a measurement."""
    given = bench.conditions
    rows = [
        ("processor", given.processor), ("cores", f"{given.usable_cores:g}"),
        ("threads", str(given.threads) if given.threads else "as the engine library chooses"),
        ("load when it began", f"{given.load:g}"), ("measured on", given.date),
        *given.versions.items(),
    ]  # fmt: skip
    return Table((), tuple((name, printable(text)) for name, text in rows))


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.1f} ms"
