"""Lower, export, compile and pack plans of one model, one for each of its sizes, into one bundle."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from soda_runtime.engine_index import INDEX_NAME
from soda_runtime.policy import POLICY_NAME

from ..compile import AHEAD_OF_TIME
from ..compile.options import EngineOptions
from ..compile.places import check_precision
from ..errors import UsageError
from ..export.export import export_sizes
from ..export.index import ExportIndex, read_index, sized_name
from ..export.policy import export_policy
from ..lower.lower import lower_plan
from ..lower.program import ProgramTable, read_table, table_text
from ..models.precision import Compute, numbers_of
from ..models.record import RECORD_NAME, record_bytes
from ..models.spec import ModelSpec
from ..options import BundleOptions
from ..plan.plan import Plan, plan_text
from ..policy.adaptive import PROGRAM_FILE, TABLES_FILE, AdaptivePolicy
from .engines import LAYERS_NAME, graph_path, make_engines, write_engine_index
from .pack import PLAN_NAME, TABLE_NAME, SizedParts, pack_bundle
from .stages import StageStore

if TYPE_CHECKING:
    from .pipeline import Workbench

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Built:
    """What a build made. plan, table: of the first size. reused: stages that were taken from their files."""

    out: Path
    plan: Plan
    table: ProgramTable
    reused: tuple[str, ...]


def assemble_bundle(
    sizes: Sequence[tuple[Workbench, Plan]], backend: str, out: Path, options: BundleOptions = BundleOptions(),
    engine_options: EngineOptions = EngineOptions(), policies: Sequence[AdaptivePolicy] = (),
) -> Built:  # fmt: skip
    """One bundle of a model at several sizes, or at one; the first one is what requests get that name none.

    policies: what requests follow that do not ask for the plan, one for each size, or none. Raises UsageError for what
    does not go together.
    """
    bench = sizes[0][0]
    _check(sizes, options, backend, policies)
    numbers, store = numbers_of(options.precision, backend), bench.store
    compute = numbers.compute
    suffixes = ["", *("-{}x{}".format(*each.loaded.size) for each, _ in sizes[1:])]
    benches, plans = [each for each, _ in sizes], [each.completed(plan) for each, plan in sizes]
    lowered = [_lower(each, plan, compute, bool(policies)) for each, plan in zip(benches, plans, strict=True)]
    tables = [read_table((folder / TABLE_NAME).read_bytes(), str(folder / TABLE_NAME)) for folder in lowered]
    # what follows depends on the decisions, not on who made them
    common: dict[str, Any] = {"sizes": [
        {"model": each.loaded.spec, "scheduler": each.loaded.scheduler_config,
         "table": msgspec.structs.replace(table, plan_hash="")}
        for each, table in zip(benches, tables, strict=True)
    ], "precision": numbers, "inpainting": options.inpainting}  # fmt: skip
    least_state = max((policy.state_size for policy in policies), default=1)
    common["least_state"] = least_state
    exported = store.produce(
        "export", common,
        lambda folder: export_sizes(
            [(suffix, each.loaded, each.sampler, table)
             for suffix, each, table in zip(suffixes, benches, tables, strict=True)],
            numbers, folder, partial(bench.progress, "export"), inpainting=options.inpainting,
            least_state=least_state,
        ),
    )  # fmt: skip
    indices = [read_index(exported, suffix) for suffix in suffixes]
    graphs = tuple(dict.fromkeys(name for index in indices for name in index.graphs))
    engines = make_engines(store, backend, exported, graphs, engine_options, common)
    parts = []
    made = {name: engines / name for name in graphs}
    deciding: Sequence[AdaptivePolicy | None] = policies or [None] * len(sizes)
    for suffix, each, table, index, folder, policy in zip(
        suffixes, benches, tables, indices, lowered, deciding, strict=True
    ):
        components = each.components.make(backend, compute, options.without, engine_options, suffix)
        files = {name: engines / name for name in index.graphs}
        files |= {name: exported / name for name in (index.weights, index.tables_file)} | components.files
        files |= {sized_name(name, suffix): folder / name for name in (PLAN_NAME, TABLE_NAME)}
        if policy is not None:
            rules = _export_policy(each, policy, table, index, suffix)
            program = sized_name(PROGRAM_FILE, suffix)
            made[program] = make_engines(store, backend, rules, (program,), engine_options, {"graph": rules.name})
            made[program] /= program
            files |= {sized_name(name, suffix): rules / sized_name(name, suffix) for name in (POLICY_NAME, TABLES_FILE)}
            files[program] = made[program]
        parts.append(SizedParts(each.loaded.size, suffix, each.loaded.spec, table, index, components, files))
    made |= {name: path for part in parts for name, path in part.components.engines.items()}
    extra = {RECORD_NAME: _record(bench)}
    if backend in AHEAD_OF_TIME:
        folder = _describe_engines(store, made, bench.loaded.spec.name, compute)
        extra |= {name: folder / name for name in (LAYERS_NAME, INDEX_NAME)}
        extra |= {graph_path(Path(), name, backend).name: graph_path(path.parent, path.name, backend)
                  for name, path in made.items()}  # fmt: skip
    pack_bundle(parts, extra, backend, store.root, out, partial(bench.progress, "pack"))
    return Built(out, plans[0], tables[0], tuple(store.reused))


def _check(
    sizes: Sequence[tuple[Workbench, Plan]], options: BundleOptions, backend: str,
    policies: Sequence[AdaptivePolicy],
) -> None:  # fmt: skip
    check_precision(backend, options.precision)
    if policies and options.inpainting:
        raise UsageError("--policy: a bundle that inpaints follows its schedule; leave out one of the two")
    known = set()
    for bench, _ in sizes:
        if bench.loaded.size in known:
            raise UsageError("--size {}x{}: is given twice".format(*bench.loaded.size))
        known.add(bench.loaded.size)


def _lower(bench: Workbench, plan: Plan, compute: Compute, with_skip: bool) -> Path:
    """The folder of the plan and its program table."""
    spec, text = bench.loaded.spec, plan_text(plan)
    inputs = {
        "model": spec, "scheduler": bench.loaded.scheduler_config, "precision": compute, "plan": text.decode(),
        **({"skip": True} if with_skip else {}),
    }  # fmt: skip
    return bench.store.produce(
        "programs", inputs, lambda folder: _write_programs(folder, plan, text, spec, compute, with_skip)
    )


def _write_programs(
    folder: Path, plan: Plan, text: bytes, spec: ModelSpec, precision: Compute, with_skip: bool
) -> None:
    table = lower_plan(plan, spec, precision, with_skip)
    (folder / PLAN_NAME).write_bytes(text)
    (folder / TABLE_NAME).write_bytes(table_text(table))
    log.info(
        "programs: %d for %d steps, FLOPs ratio %.3f, arena %.2f MB a sample (lower bound %.2f, naive %.2f)",
        table.num_engines, len(table.step_programs), table.flops_ratio, table.arena.bytes / 1e6,
        table.arena.lower_bound_bytes / 1e6, table.arena.naive_bytes / 1e6,
    )  # fmt: skip


def _record(bench: Workbench) -> Path:
    """What drop-ins for the model's pipeline read (docs/diffusers.md)."""
    text = record_bytes(bench.loaded)
    made = bench.store.produce(
        "record", {"text": text.decode()}, lambda folder: (folder / RECORD_NAME).write_bytes(text)
    )
    return made / RECORD_NAME


def _export_policy(
    bench: Workbench, policy: AdaptivePolicy, table: ProgramTable, index: ExportIndex, suffix: str
) -> Path:
    """policy.json, its tables and the graph of its signals."""
    programs = {"baseline": table.baseline, "count": len(table.programs), "forecasts": table.num_forecasts}
    latents, state_size = bench.loaded.spec.latent_shape, index.state_size
    inputs = {"policy": policy.content, "state_size": state_size, "latents": latents}
    return bench.store.produce(
        "policy", {**inputs, "programs": programs, **({"suffix": suffix} if suffix else {})},
        lambda folder: export_policy(policy, table, state_size, latents, folder, suffix),
    )  # fmt: skip


def _describe_engines(store: StageStore, engines: Mapping[str, Path], model: str, precision: Compute) -> Path:
    """The folder of engines.json, and of what the engines are made of. engines: by their names in the bundle."""
    inputs = {"engines": {name: str(path) for name, path in engines.items()}, "model": model, "precision": precision}
    return store.produce(
        "engine-index", inputs, lambda folder: write_engine_index(engines, model, precision, folder)
    )
