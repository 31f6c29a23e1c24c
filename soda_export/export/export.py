"""Export program tables of one model, one for each size: ONNX graphs and tables beside one weights file."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import onnx

from ..lower.program import ProgramTable
from ..models.precision import Numbers
from ..sampler import SamplerTable
from .arrange import Arranged
from .index import INDEX_NAME, ExportIndex, sized_name
from .tensor_file import TensorSource, write_tensors
from .weights import WEIGHTS_NAME, WeightsFile

if TYPE_CHECKING:
    from ..models.load import LoadedModel

log = logging.getLogger(__name__)
Progress = Callable[[int, int], None]


def export_programs(
    loaded: LoadedModel, sampler: SamplerTable, table: ProgramTable, numbers: Numbers, folder: Path,
    progress: Progress, expose_selection: bool = False, inpainting: bool = False, least_state: int = 1,
) -> ExportIndex:  # fmt: skip
    """Write weights, tables, all graphs and export.json into `folder`. Raises ModelError and ExportError.

    progress(done, total) counts tracing, weights, and each graph. The other arguments: as Arranged has them.
    """
    sizes = [("", loaded, sampler, table)]
    return export_sizes(sizes, numbers, folder, progress, expose_selection, inpainting, least_state)[0]


def export_sizes(
    sizes: Sequence[tuple[str, LoadedModel, SamplerTable, ProgramTable]], numbers: Numbers, folder: Path,
    progress: Progress, expose_selection: bool = False, inpainting: bool = False, least_state: int = 1,
) -> list[ExportIndex]:  # fmt: skip
    """The same of one model at several sizes, with one weights file. sizes: what ends the names of a size's files, its
    model, sampler and table.

    A file that is equal to one of an earlier size is not kept: the index names that one. Graphs are equal where only
    the names of their nodes and inner values differ.
    """
    started, done = time.perf_counter(), 0
    arranged = [
        Arranged(loaded, sampler, table, numbers, inpainting, least_state) for _, loaded, sampler, table in sizes
    ]
    total = 2 + sum(each.num_graphs for each in arranged)

    def count() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    count()
    sources: dict[str, TensorSource] = {}
    for each in arranged:
        sources = {source.name: source for source in each.sources} | sources
    write_tensors(folder / WEIGHTS_NAME, list(sources.values()))
    weights, known = WeightsFile(folder), dict[str, str]()
    count()
    indices = []
    for (suffix, *_), each in zip(sizes, arranged, strict=True):
        index = _shared(each.write(weights, folder, suffix, count, expose_selection), folder, known)
        text = msgspec.json.format(msgspec.json.encode(index), indent=1) + b"\n"
        (folder / sized_name(INDEX_NAME, suffix)).write_bytes(text)
        indices.append(index)
    graphs = {name for index in indices for name in index.graphs}
    log.info("export: %d graphs in %.1f s", len(graphs), time.perf_counter() - started)
    return indices


def _shared(index: ExportIndex, folder: Path, known: dict[str, str]) -> ExportIndex:
    """The index with the names of earlier, equal files; those are removed. known: content -> name of what is kept."""
    names: dict[str, str] = {}
    for name in (*index.graphs, index.tables_file):
        kept = known.setdefault(_content(folder / name), name)
        if kept != name:
            (folder / name).unlink()
        names[name] = kept
    return msgspec.structs.replace(
        index, programs=tuple(names[name] for name in index.programs), tables_file=names[index.tables_file],
        prepare=tuple(replace(each, file=names[each.file]) for each in index.prepare),
    )  # fmt: skip


def _content(path: Path) -> str:
    """Hex SHA-256 of a file; of a graph with its inner names, which the tracer counts, replaced by their order."""
    if path.suffix != ".onnx":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    model = onnx.load(str(path), load_external_data=False)
    graph = model.graph
    kept = {value.name for value in (*graph.input, *graph.output, *graph.initializer)} | {""}
    names: dict[str, str] = {}
    for number, node in enumerate(graph.node):
        node.name = str(number)
        for values in (node.input, node.output):
            for i, value in enumerate(values):
                values[i] = value if value in kept else names.setdefault(value, f" {len(names)}")
    for value in graph.value_info:
        value.name = names.get(value.name, value.name)
    graph.value_info.sort(key=lambda value: value.name)
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
