"""A policy into what a bundle takes of it: the program of its signals, its tables, and policy.json."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from soda_runtime.policy import POLICY_NAME, SIGNAL, SIGNAL_ROW, policy_text, signal_columns
from soda_runtime.signature import BATCH_AXIS, STATE, STATE_OUT

from ..lower.program import ProgramTable
from ..policy.adaptive import PROGRAM_FILE, TABLES_FILE, AdaptivePolicy
from .builder import GraphBuilder
from .index import sized_name


def export_policy(
    policy: AdaptivePolicy, table: ProgramTable, state_size: int, latent_shape: tuple[int, ...], folder: Path,
    suffix: str = "",
) -> None:  # fmt: skip
    """Write all three into `folder`, over a state of `state_size` tensors, as the programs of `table` have it. suffix:
    of a size's files."""
    program, tables = sized_name(PROGRAM_FILE, suffix), sized_name(TABLES_FILE, suffix)
    wide = policy.widened(state_size)
    skip = next(number for number, program in enumerate(table.programs) if program.skips)
    rows = {name: _with_forecasts(made, table.num_forecasts) for name, made in wide.rows.items()}
    save_file({name: np.ascontiguousarray(made) for name, made in (wide.tables | rows).items()}, folder / tables)
    record = replace(wide.record(table.baseline, skip), signals=program, tables=tables)
    (folder / sized_name(POLICY_NAME, suffix)).write_text(policy_text(record))
    _write_signals(state_size, len(wide.held), latent_shape, folder / program)


def _with_forecasts(rows: NDArray[np.float32], forecasts: int) -> NDArray[np.float32]:
    """Rows end with the weights of forecasts, of which actions make none."""
    return np.pad(rows, ((0, 0), (0, 0), (0, 3 * forecasts)))


def _write_signals(state_size: int, signals: int, latent_shape: tuple[int, ...], path: Path) -> None:
    """The means over each sample of products of two forms, in float32: [batch, q]."""
    builder = GraphBuilder(path.stem, None)
    shape: list[int | str] = [state_size, BATCH_AXIS, *latent_shape]
    states = [builder.input(name, "float32", shape) for name in (STATE, STATE_OUT)]
    row = builder.input(SIGNAL_ROW, "float32", [signal_columns(state_size, signals)])

    both = builder.node("Concat", states, prefix="signals", axis=0)
    tensors = builder.node("Reshape", [both, builder.ints(2 * state_size, -1)], prefix="signals")  # [2 n, batch * M]
    forms = builder.node("Reshape", [row, builder.ints(2 * signals, -1)], prefix="signals")  # [2 q, 2 n + 1]
    sizes = builder.ints(2 * state_size, 1)
    of_tensors, constants = builder.nodes("Split", [forms, sizes], prefix="signals", outputs=2, axis=1)
    values = builder.node("MatMul", [of_tensors, tensors], prefix="signals")
    values = builder.node("Add", [values, constants], prefix="signals")
    elements = int(np.prod(latent_shape))
    pairs = builder.node("Reshape", [values, builder.ints(signals, 2, -1, elements)], prefix="signals")
    halves = builder.ints(1, 1)
    first, second = builder.nodes("Split", [pairs, halves], prefix="signals", outputs=2, axis=1)
    products = builder.node("Mul", [first, second], prefix="signals")  # [q, 1, batch, M]
    means = builder.node("ReduceMean", [products, builder.ints(1, 3)], prefix="signals", keepdims=0)  # [q, batch]
    signal = builder.node("Transpose", [means], prefix="signals", perm=[1, 0])
    builder.output(signal, SIGNAL, "float32", [BATCH_AXIS, signals])
    builder.save(path, "signals after a step: means over each sample of products of two forms of the states around it")
