"""Ask the engine which tokens it chose: export the programs with their selections as outputs, and play them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from soda_runtime import Noise
from soda_runtime.signature import (
    ATTENTION_MASK,
    COEFFICIENTS,
    EMBEDS,
    GUIDANCE,
    LABELS,
    NOISE,
    STATE,
    STATE_OUT,
    cache_in,
    cache_out,
)
from torch import Tensor

from soda_export.build.pipeline import Workbench
from soda_export.eager.reference import run_reference
from soda_export.eager.tokens import top_margin, top_tokens
from soda_export.export.assemble import ProgramAssembler
from soda_export.export.fragments import trace_fragments
from soda_export.export.reuse import step_scalars
from soda_export.export.weights import WeightsFile, write_weights
from soda_export.lower.program import ProgramTable, Slot
from soda_export.models.blocks import TORCH_DTYPES
from soda_export.models.denoiser import LabelRows, TextRows, label_rows
from soda_export.models.precision import Precision

NEAR_TIE = 2e-5

Selection = dict[tuple[int, str], np.ndarray[Any, Any]]
Arrays = dict[str, Any]


class SelectionRecorder:
    """The programs of a table with their selections as outputs, for any number of runs with plain numpy feeds."""

    def __init__(self, bench: Workbench, table: ProgramTable, folder: Path, precision: Precision = "fp32") -> None:
        folder.mkdir()
        self._bench, self._table = bench, table
        denoiser, sampler = bench.loaded.denoiser, bench.sampler
        write_weights(denoiser, folder, TORCH_DTYPES[precision])
        fragments = trace_fragments(denoiser, sampler, table, precision)
        assembler = ProgramAssembler(denoiser, sampler, table, fragments, WeightsFile(folder), precision)
        self._prepare = [(program, _open(folder / program.file)) for program in assembler.write_prepare(folder)]
        self._sessions = []
        self._scalars = step_scalars(sampler, table)
        for i, program in enumerate(table.programs):
            assembler.write_step(program, str(i), folder / f"{i}.onnx", expose_selection=True)
            self._sessions.append(_open(folder / f"{i}.onnx"))

    def record(self, rows: LabelRows | TextRows, noise: Noise) -> Selection:
        """(step, slot) -> indices [B, keep] that ONNX Runtime's TopK picked."""
        sampler, table, batch = self._bench.sampler, self._table, len(noise.initial)
        per_step, prepared = self._prepared(rows)
        state = np.zeros((sampler.state_size, *noise.initial.shape), np.float32)
        state[0] = noise.initial * np.float32(sampler.initial_scale)
        slots: dict[Slot, list[Any]] = {}  # newest first
        selection: Selection = {}
        for step, index in enumerate(table.step_programs):
            session = self._sessions[index]
            inputs = {
                STATE: state, COEFFICIENTS: self._scalars[step],
                GUIDANCE: np.array([table.guidance], np.float32), **prepared,
                **{name: values[step] for name, values in per_step.items()},
                **{cache_in(str(slot._replace(age=age))): v for slot, vs in slots.items() for age, v in enumerate(vs)},
            }  # fmt: skip
            if noise.steps is not None:
                inputs[NOISE] = noise.steps[step]
            outputs = _run(session, inputs)
            state = outputs[STATE_OUT]
            program = table.programs[index]
            for slot in program.writes:
                older = slots.get(slot, [])
                slots[slot] = [outputs[cache_out(str(slot))], *(older[1:] if slot in program.reads else older[:2])]
            for name, value in outputs.items():
                kind, _, chosen = name.partition(".")
                if kind == "pairs":
                    selection[step, chosen] = value[:batch, :, 1].copy()
        return selection

    def _prepared(self, rows: LabelRows | TextRows) -> tuple[Arrays, Arrays]:
        """What the prepare programs make: of every step, and of the request."""
        request: Arrays = (
            {LABELS: rows.labels.numpy()} if isinstance(rows, LabelRows)
            else {EMBEDS: rows.embeds.numpy(), ATTENTION_MASK: rows.mask.numpy()}
        )  # fmt: skip
        tables = self._bench.loaded.denoiser.tables(self._bench.sampler.timesteps)
        per_step: Arrays = {}
        prepared: Arrays = {}
        for program, session in self._prepare:
            made = _run(session, {**request, **{name: table.numpy() for name, table in tables.items()}})
            (per_step if program.tables else prepared).update(made)
        return per_step, prepared


def play_reference(
    bench: Workbench, table: ProgramTable, condition: Tensor | TextRows, noise: Noise, recorder: SelectionRecorder
) -> np.ndarray[Any, Any]:
    """The reference's latents.

    Tokens are chosen by the reference itself, but by the engine for samples in which the margin cannot decide, which
    must be few; where it can, both must agree.
    """
    rows = condition
    if isinstance(condition, Tensor):
        rows = label_rows(condition, bench.loaded.spec, table.rows)
    selected = recorder.record(rows, noise)
    near_ties = 0

    def choose(step: int, slot: Slot, scores: Tensor, keep: int) -> Tensor:
        nonlocal near_ties
        mine, margin = top_tokens(scores, keep), top_margin(scores, keep)
        theirs = torch.from_numpy(selected[step, str(slot)])
        for b in range(len(mine)):
            if margin[b] < NEAR_TIE:
                near_ties += 1
                mine[b] = theirs[b]
            else:
                assert set(mine[b].tolist()) == set(theirs[b].tolist())
        return mine

    steps = None if noise.steps is None else torch.from_numpy(noise.steps)
    latents = run_reference(
        bench.loaded.denoiser, bench.sampler, table, condition, torch.from_numpy(noise.initial), steps, choose=choose
    ).numpy()
    assert near_ties <= 1 + 0.05 * len(selected) * len(noise.initial)
    result: np.ndarray[Any, Any] = latents
    return result


def follow_engine(
    bench: Workbench, table: ProgramTable, condition: Tensor | TextRows, noise: Noise, selected: Selection
) -> np.ndarray[Any, Any]:
    """The reference's latents with the engine's own tokens, for precisions in which scores differ too much."""
    steps = None if noise.steps is None else torch.from_numpy(noise.steps)
    return run_reference(
        bench.loaded.denoiser, bench.sampler, table, condition, torch.from_numpy(noise.initial), steps,
        choose=lambda step, slot, scores, keep: torch.from_numpy(selected[step, str(slot)]),
    ).numpy()  # fmt: skip


def _run(session: ort.InferenceSession, inputs: Arrays) -> Arrays:
    wanted = {value.name for value in session.get_inputs()}
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, {k: v for k, v in inputs.items() if k in wanted}), strict=True))


def _open(path: Path) -> ort.InferenceSession:
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
