"""Arrange the programs of one model at one size before any file is written, then write their graphs and tables."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import onnx_ir as ir
import torch
from safetensors.numpy import save_file
from soda_runtime.manifest import PreparedTensor, Slot
from soda_runtime.signature import (
    BASELINE_COEFFICIENTS,
    COEFFICIENTS,
    MASK,
    PREVIEW_LEVELS,
    START_COEFFICIENTS,
    START_KNOWN,
    START_LEVELS,
)  # fmt: skip

from ..errors import ExportError
from ..lower.program import ProgramTable
from ..models.decisions import is_renewal
from ..models.paths import block_paths, site_modules
from ..models.precision import Numbers
from ..models.spec import ModelSpec
from ..sampler import (
    KNOWN,
    MOST_STATE,
    SamplerTable,
    Starts,
    freeze_starts,
    levels_after,
    preview_levels,
    starts_with_known,
    with_known,
)
from ..trace.bind import BindingTimes
from ..trace.denoiser import trace_denoiser
from ..trace.graph import DenoiserGraph, join_graph
from ..trace.tidy import TRANSPOSED
from ..trace.walk import producers
from .crossing import FLOATS, Crossing, CrossingTensor, pack_crossing
from .index import ExportIndex, sized_name
from .pieces import Pieces
from .prepare import TABLE, Prepared, PrepareWriter, arrange_prepare, evaluate_table
from .reuse import start_scalars, step_scalars
from .steps import Slice, StepWriter, slice_of
from .tensor_file import TensorSource
from .weights import WeightsFile, constant_sources, is_large, weight_sources

if TYPE_CHECKING:
    from ..models.load import LoadedModel

TABLES_NAME = "tables.safetensors"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Arranged:
    """What the programs of a table take and give, and the tensors that they need of the weights file.

    inpainting: programs take a mask and known latents. least_state: tensors that the state has at least. Raises
    ModelError and ExportError.
    """

    def __init__(
        self, loaded: LoadedModel, sampler: SamplerTable, table: ProgramTable, numbers: Numbers,
        inpainting: bool = False, least_state: int = 1,
    ) -> None:  # fmt: skip
        self._loaded, self._table, self._inpaints, spec = loaded, table, inpainting, loaded.spec
        own, sampler = sampler, sampler.with_coefficients(table.own_coefficients)
        sampler = sampler.widened(max(sampler.state_size, least_state))
        starts = freeze_starts(own, loaded.scheduler_config, table.sampler.eta)
        self._previews = preview_levels(own, loaded.scheduler_config, starts)
        if starts is not None:
            starts = starts.widened(own, sampler.state_size)
        own = own.widened(sampler.state_size)
        self._mask_shape = mask_shape_of(spec) if inpainting else ()
        if inpainting:
            if any(port.name == MASK for port in spec.ports):
                raise ExportError(f"--inpainting: {spec.name} takes a mask beside its latents anyway; leave it out")
            own, sampler, starts = _inpainting(own, sampler, starts)
        self._own, self._sampler, self._starts = own, sampler, starts
        self._numbers = numbers
        self._graph = graph = _trace(loaded, table, DTYPES[numbers.compute])
        self._crossing = crossing = Crossing(BindingTimes(graph))
        slices = [slice_of(graph, spec, program) for program in table.programs]
        self._crossed = [crossing.before(part.wanted, part.given.__contains__) for part in slices]
        crossing_values = list(dict.fromkeys(v for values in self._crossed for v in values))
        self._tensors = pack_crossing(crossing_values, crossing.times)
        self._prepared = arrange_prepare(self._tensors, crossing)
        taken = _taken_weights(slices, self._crossed)
        self.sources = _sources(loaded, graph, taken, self._prepared, numbers.int8_matrices)

    @property
    def num_graphs(self) -> int:
        """Progress that `write` counts: the prepare programs as one, and each step program."""
        return 1 + len(self._table.programs)

    def write(
        self, weights: WeightsFile, folder: Path, suffix: str, progress: Callable[[], None],
        expose_selection: bool = False,
    ) -> ExportIndex:  # fmt: skip
        """Write the graphs and tables into the folder of the weights file, `suffix` at the end of their names.

        progress() is called num_graphs times. expose_selection: as in StepWriter.write.
        """
        loaded, table, graph, crossing = self._loaded, self._table, self._graph, self._crossing
        spec, sampler, tensors, prepared = loaded.spec, self._sampler, self._tensors, self._prepared
        prepare = PrepareWriter(graph, spec, crossing, prepared, weights, table.rows).write(folder, suffix)
        progress()
        pieces = Pieces(spec, sampler, table, DTYPES[self._numbers.compute], self._mask_shape)
        writer = StepWriter(
            graph, spec, sampler, table, pieces, crossing.times, tensors, weights, self._mask_shape,
            self._numbers.int8_products,
        )
        names, inputs = [], []
        for i, (program, values) in enumerate(zip(table.programs, self._crossed, strict=True)):
            names.append(sized_name(program_name(i), suffix))
            inputs.append(_taken(tensors, values) + ((MASK,) if self._inpaints else ()))
            writer.write(program, inputs[-1], Path(program_name(i)).stem, folder / names[-1], expose_selection)
            progress()
        tables_file = sized_name(TABLES_NAME, suffix)
        save_file(self._tables(), folder / tables_file)
        return ExportIndex(
            self._numbers.compute, tuple(_described(tensor) for tensor in tensors), prepare, tuple(names),
            tuple(inputs), weights.name, tables_file, sampler.state_size, sampler.stochastic, sampler.learned_variance,
            sampler.initial_scale, sampler.timesteps, tuple(_slots(graph, table)), bool(table.coefficients),
            self._mask_shape,
        )  # fmt: skip

    def _tables(self) -> dict[str, np.ndarray]:
        """Every table of the file, float32, by name."""
        table, starts = self._table, self._starts
        arrays = {COEFFICIENTS: step_scalars(self._sampler, table)}
        if self._prepared.table:
            timesteps, read = self._sampler.timesteps, self._loaded.weights.read
            arrays[TABLE] = evaluate_table(self._graph, self._prepared.table, timesteps, read)
        if table.coefficients:
            arrays[BASELINE_COEFFICIENTS] = step_scalars(self._own, table)
        if self._previews is not None:
            arrays[PREVIEW_LEVELS] = self._previews
        if starts is not None:
            arrays[START_LEVELS] = starts.levels
            if starts.rows.size:
                arrays[START_COEFFICIENTS] = start_scalars(starts, table)
            if self._inpaints:
                arrays[START_KNOWN] = levels_after(starts)
        return {name: np.ascontiguousarray(array, np.float32) for name, array in sorted(arrays.items())}


def _inpainting(
    own: SamplerTable, sampler: SamplerTable, starts: Starts | None
) -> tuple[SamplerTable, SamplerTable, Starts]:
    """The same with the known latents in the state. Raises ExportError."""
    if starts is None:
        raise ExportError(f"--inpainting: {own.name} cannot start from latents; choose another --sampler, e.g. ddim")
    if sampler.state_size + KNOWN > MOST_STATE:
        raise ExportError(
            f"--inpainting: {own.name} would have a state of {sampler.state_size + KNOWN} tensors, more than "
            f"{MOST_STATE}; choose another --sampler, or --fit-sampler never"
        )
    after = levels_after(starts)
    return with_known(own, after), with_known(sampler, after), starts_with_known(starts, own, after)


def mask_shape_of(spec: ModelSpec) -> tuple[int, ...]:
    """Of latents that are an image or a video one channel, of packed ones all of them."""
    shape = spec.latent_shape
    return (1, *shape[1:]) if len(shape) > 2 else shape


def program_name(index: int) -> str:
    """File name of a step program's graph."""
    return f"program-{index:02d}.onnx"


def renewed_kinds(loaded: LoadedModel, table: ProgramTable) -> tuple[str, ...]:
    """Kinds of the sites that some program renews in part."""
    kinds = {
        site.kind: None
        for program in table.programs
        for site, work in zip(loaded.spec.sites, program.work, strict=True)
        if is_renewal(work)
    }
    return tuple(kinds)


_KEPT_TRACES = 4
_traces: OrderedDict[tuple[ModelSpec, torch.dtype], tuple[frozenset[str], DenoiserGraph]] = OrderedDict()
"""The last traces of this process, with the kinds of sites whose renewal they have."""


def _trace(loaded: LoadedModel, table: ProgramTable, dtype: torch.dtype) -> DenoiserGraph:
    """The model's graph: that of an earlier export, where it has what this one needs."""
    key = msgspec.structs.replace(loaded.spec, name=""), dtype  # a copy of the model in another folder is the same
    kinds = renewed_kinds(loaded, table)
    known, graph = _traces.get(key, (frozenset(), None))
    if graph is None or not known.issuperset(kinds):
        kinds = tuple(dict.fromkeys((*sorted(known), *kinds)))
        graph = _trace_anew(loaded, kinds, dtype)
        _traces[key] = (frozenset(kinds), graph)
    _traces.move_to_end(key)
    while len(_traces) > _KEPT_TRACES:
        _traces.popitem(last=False)
    return graph


def _trace_anew(loaded: LoadedModel, kinds: tuple[str, ...], dtype: torch.dtype) -> DenoiserGraph:
    fake = loaded.fake(dtype)
    trace = trace_denoiser(fake, loaded.family, loaded.spec, loaded.constants, dtype, kinds)
    modules = {site.path: site for site in site_modules(fake.module, loaded.family)}
    return join_graph(trace, [modules[site.name] for site in loaded.spec.sites])


def _sources(
    loaded: LoadedModel, graph: DenoiserGraph, in_steps: list[ir.Value], prepared: Prepared, int8: bool
) -> list[TensorSource]:
    """Every tensor that some program takes; in int8 the matrices of the blocks, where steps multiply by them."""
    on_table = set(prepared.table)
    found = [*in_steps, *_leaves(prepared.computed, on_table.__contains__)]
    values = {value: graph.weights[value] for value in dict.fromkeys(found) if value in graph.weights}
    modules = dict(loaded.fake(torch.float32).module.named_modules()) if int8 else {}
    blocks = tuple(f"{path}." for path in block_paths(modules, loaded.family))
    matrices = {graph.weights[value] for value in in_steps if value in graph.weights}

    def quantized(name: str) -> bool:
        return int8 and name in matrices and name.startswith(blocks) and name.endswith(f".weight{TRANSPOSED}")

    constants = [value for value in dict.fromkeys(found) if value not in graph.weights and is_large(value)]
    return [*weight_sources(values, loaded.weights.read, quantized), *constant_sources(constants)]


def _taken_weights(slices: list[Slice], crossed: list[list[ir.Value]]) -> list[ir.Value]:
    """Leaves of all slices that have no input. crossed: what each is handed."""
    found: dict[ir.Value, None] = {}
    for part, values in zip(slices, crossed, strict=True):
        found |= dict.fromkeys(_leaves(part.wanted, part.given.union(values).__contains__))
    return list(found)


def _leaves(wanted: list[ir.Value] | tuple[ir.Value, ...], given: Callable[[ir.Value], bool]) -> list[ir.Value]:
    """Values without a producer that `wanted` is computed from."""
    found: dict[ir.Value, None] = {}
    for node in producers(wanted, given):
        for value in node.inputs:
            if value is not None and value.producer() is None and not given(value):
                found.setdefault(value)
    return list(found)


def _taken(tensors: tuple[CrossingTensor, ...], values: list[ir.Value]) -> tuple[str, ...]:
    """Names of the tensors that hold some of the values."""
    wanted = set(values)
    return tuple(tensor.name for tensor in tensors if not wanted.isdisjoint(tensor.parts))


def _slots(graph: DenoiserGraph, table: ProgramTable) -> Iterator[Slot]:
    """The table's slots with the types that the graph has."""
    numbers = {name: k for k, name in enumerate(table.model.names)}
    for name, layout in table.slots.items():
        site, _, output = name.partition("#")
        dtype = graph.sites[numbers[site]].outputs[int(output or 0)].dtype
        assert dtype is not None
        yield Slot(name, layout.shape, FLOATS[dtype])  # type: ignore[arg-type]


def _described(tensor: CrossingTensor) -> PreparedTensor:
    return PreparedTensor(tensor.name, tensor.dtype, tensor.rows, tensor.per_step, tensor.shape)  # type: ignore[arg-type]
