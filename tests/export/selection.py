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


def record_selection(
    bench: Workbench, table: ProgramTable, folder: Path, labels: list[int], noise: Noise
) -> Selection:
    """(step, slot) -> indices [B, keep] that ONNX Runtime's TopK picked, in a run with plain numpy feeds."""
    folder.mkdir()
    denoiser, sampler = bench.loaded.denoiser, bench.sampler
    write_weights(denoiser, folder)
    assembler = ProgramAssembler(
        denoiser, sampler, table, trace_fragments(denoiser, sampler, table), WeightsFile(folder)
    )
    assembler.write_prepare(folder / "prepare.onnx")
    sessions = []
    for i, program in enumerate(table.programs):
        path = folder / f"{i}.onnx"
        assembler.write_step(program, str(i), path, expose_selection=True)
        sessions.append(ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]))
    rows = np.array(labels + [denoiser.spec.null_class] * len(labels) * (table.rows - 1), np.int64)
    feeds = {name: t.numpy() for name, t in denoiser.tables(sampler.timesteps).items()}
    prepare = ort.InferenceSession(str(folder / "prepare.onnx"), providers=["CPUExecutionProvider"])
    conditioning = prepare.run([CONDITIONING], {LABELS: rows, **feeds})[0]
    state = noise.initial[None] * np.float32(sampler.initial_scale)
    slots: dict[str, Any] = {}
    selection: Selection = {}
    for step, index in enumerate(table.step_programs):
        session = sessions[index]
        inputs = {
            STATE: state, COEFFICIENTS: sampler.coefficients[step], CONDITIONING: conditioning[step],
            GUIDANCE: np.array([table.guidance], np.float32), **{f"cache.{name}": v for name, v in slots.items()},
        }  # fmt: skip
        if noise.steps is not None:
            inputs[NOISE] = noise.steps[step]
        wanted = {value.name for value in session.get_inputs()}
        names = [value.name for value in session.get_outputs()]
        outputs = dict(zip(names, session.run(names, {k: v for k, v in inputs.items() if k in wanted}), strict=True))
        state = outputs[STATE_OUT]
        for name, value in outputs.items():
            kind, _, slot = name.partition(".")
            if kind == "cache_out":
                slots[slot] = value
            elif kind == "pairs":
                selection[step, slot] = value[: len(labels), :, 1].copy()
    return selection
