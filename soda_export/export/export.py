"""Export a program table: one ONNX graph a program, one weights file, one file of tables."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from safetensors.numpy import save_file
from soda_runtime.signature import BASELINE_COEFFICIENTS, COEFFICIENTS

from ..lower.program import ProgramTable
from ..models.blocks import TORCH_DTYPES
from ..models.denoiser import Denoiser
from ..models.precision import COMPUTE, Precision
from ..sampler import SamplerTable
from .assemble import ProgramAssembler
from .fragments import trace_fragments
from .index import INDEX_NAME, ExportIndex
from .reuse import step_scalars
from .weights import WEIGHTS_NAME, WeightsFile, write_weights

log = logging.getLogger(__name__)
TABLES_NAME = "tables.safetensors"
Progress = Callable[[int, int], None]


def export_programs(
    denoiser: Denoiser, sampler: SamplerTable, table: ProgramTable, precision: Precision, folder: Path,
    progress: Progress,
) -> ExportIndex:  # fmt: skip
    """Write weights, tables, all graphs and export.json into `folder`. Raises ExportError.

    progress(done, total) counts weights, tracing, and each graph.
    """
    started = time.perf_counter()
    own, sampler = sampler, sampler.with_coefficients(table.own_coefficients)
    total = 3 + len(table.programs)
    compute = COMPUTE[precision]
    write_weights(denoiser, folder, TORCH_DTYPES[compute], int8=precision == "int8-weights")
    progress(1, total)
    fragments = trace_fragments(denoiser, sampler, table, compute)
    progress(2, total)
    assembler = ProgramAssembler(denoiser, sampler, table, fragments, WeightsFile(folder), compute)
    prepare = assembler.write_prepare(folder)
    names = tuple(program_name(i) for i in range(len(table.programs)))
    progress(3, total)
    for i, (name, program) in enumerate(zip(names, table.programs, strict=True)):
        assembler.write_step(program, name.removesuffix(".onnx"), folder / name)
        progress(4 + i, total)
    tables = {name: tensor.numpy() for name, tensor in denoiser.tables(sampler.timesteps).items()}
    arrays = {COEFFICIENTS: step_scalars(sampler, table), **tables}
    if table.coefficients:
        arrays[BASELINE_COEFFICIENTS] = step_scalars(own.widened(sampler.state_size), table)
    contiguous = {name: np.ascontiguousarray(array, np.float32) for name, array in sorted(arrays.items())}
    save_file(contiguous, folder / TABLES_NAME)
    index = ExportIndex(
        compute, tuple(assembler.tensors.values()), prepare, names, tuple(map(assembler.taken, table.programs)),
        WEIGHTS_NAME, TABLES_NAME, sampler.state_size, sampler.stochastic, sampler.learned_variance,
        sampler.initial_scale, sampler.timesteps, bool(table.coefficients),
    )  # fmt: skip
    (folder / INDEX_NAME).write_bytes(msgspec.json.format(msgspec.json.encode(index), indent=1) + b"\n")
    log.info("export: %d graphs in %.1f s", len(index.graphs), time.perf_counter() - started)
    return index


def program_name(index: int) -> str:
    """File name of a step program's graph."""
    return f"step-{index:02d}.onnx"
