"""Ask the engine which tokens it chose: export the programs with their selections as outputs, and play them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from soda_runtime import Noise
from soda_runtime.signature import COEFFICIENTS, GUIDANCE, LABELS, NOISE, STATE, STATE_OUT

from soda_export.export.assemble import ProgramAssembler
from soda_export.export.fragments import trace_fragments
from soda_export.export.weights import WeightsFile, write_weights
from soda_export.lower.program import ProgramTable
from soda_export.models.denoiser import CONDITIONING
from soda_export.pipeline import Workbench

Selection = dict[tuple[int, str], np.ndarray[Any, Any]]


class SelectionRecorder:
    """The programs of a table with their selections as outputs, for any number of runs with plain numpy feeds."""

    def __init__(self, bench: Workbench, table: ProgramTable, folder: Path) -> None:
        folder.mkdir()
        self._bench, self._table = bench, table
        denoiser, sampler = bench.loaded.denoiser, bench.sampler
        write_weights(denoiser, folder)
        assembler = ProgramAssembler(
            denoiser, sampler, table, trace_fragments(denoiser, sampler, table), WeightsFile(folder)
        )
        assembler.write_prepare(folder / "prepare.onnx")
        self._prepare = _open(folder / "prepare.onnx")
        self._sessions = []
        for i, program in enumerate(table.programs):
            assembler.write_step(program, str(i), folder / f"{i}.onnx", expose_selection=True)
            self._sessions.append(_open(folder / f"{i}.onnx"))

    def record(self, labels: list[int], noise: Noise) -> Selection:
        """(step, slot) -> indices [B, keep] that ONNX Runtime's TopK picked."""
        denoiser, sampler, table = self._bench.loaded.denoiser, self._bench.sampler, self._table
        rows = np.array(labels + [denoiser.spec.null_class] * len(labels) * (table.rows - 1), np.int64)
        feeds = {name: t.numpy() for name, t in denoiser.tables(sampler.timesteps).items()}
        conditioning = self._prepare.run([CONDITIONING], {LABELS: rows, **feeds})[0]
        state = noise.initial[None] * np.float32(sampler.initial_scale)
        slots: dict[str, Any] = {}
        selection: Selection = {}
        for step, index in enumerate(table.step_programs):
            session = self._sessions[index]
            inputs = {
                STATE: state, COEFFICIENTS: sampler.coefficients[step], CONDITIONING: conditioning[step],
                GUIDANCE: np.array([table.guidance], np.float32), **{f"cache.{name}": v for name, v in slots.items()},
            }  # fmt: skip
            if noise.steps is not None:
                inputs[NOISE] = noise.steps[step]
            wanted = {value.name for value in session.get_inputs()}
            names = [value.name for value in session.get_outputs()]
            results = session.run(names, {k: v for k, v in inputs.items() if k in wanted})
            outputs = dict(zip(names, results, strict=True))
            state = outputs[STATE_OUT]
            for name, value in outputs.items():
                kind, _, slot = name.partition(".")
                if kind == "cache_out":
                    slots[slot] = value
                elif kind == "pairs":
                    selection[step, slot] = value[: len(labels), :, 1].copy()
        return selection


def _open(path: Path) -> ort.InferenceSession:
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
