"""Play the graphs of an export with ONNX Runtime, step by step, without a bundle: what the export alone says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from safetensors.numpy import load_file

from soda_export.export.export import export_programs
from soda_export.export.index import ExportIndex
from soda_export.lower.program import ProgramTable
from soda_export.models.precision import Precision, numbers_of

Arrays = dict[str, NDArray[Any]]


class Played:
    """An export in `folder`, opened."""

    def __init__(self, folder: Path, index: ExportIndex, table: ProgramTable) -> None:
        self.folder, self.index, self.table = folder, index, table
        self.tables: Arrays = load_file(folder / index.tables_file)

    def run(self, name: str, feeds: Arrays) -> Arrays:
        """One graph: its outputs by name."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(self.folder / name, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, feeds), strict=True))

    def prepare(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Every prepared tensor; those of the steps with an axis of steps in front."""
        made: Arrays = {}
        for program in self.index.prepare:
            feeds = {name: inputs[name] if name in inputs else made[name] for name in program.inputs}
            made |= self.run(program.file, feeds | {name: self.tables[name] for name in program.tables})
        return made

    def generate(
        self, inputs: Mapping[str, NDArray[Any]], noise: NDArray[np.float32], accelerated: bool = True,
        guidance: float | None = None, see: Callable[[int, Arrays], None] = lambda step, outputs: None,
        step_noise: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:  # fmt: skip
        """Latents [B, ...]. inputs: by port, [R, ...]. step_noise: [S, B, ...], of a stochastic sampler."""
        table, prepared = self.table, self.prepare(inputs)
        per_step = {tensor.name for tensor in self.index.tensors if tensor.per_step}
        state = np.zeros((self.index.state_size, *noise.shape), np.float32)
        state[0] = noise * np.float32(self.index.initial_scale)
        scale = np.array([table.guidance if guidance is None else guidance], np.float32)
        history: dict[str, list[NDArray[Any]]] = {}
        for step, index in enumerate(table.step_programs):
            number = index if accelerated else table.baseline
            program = table.programs[number]
            own = "coefficients" if accelerated else "baseline_coefficients"
            rows = self.tables.get(own, self.tables["coefficients"])
            feeds: Arrays = {"state": state, "coefficients": rows[step]}
            feeds |= {n: prepared[n][step] if n in per_step else prepared[n] for n in self.index.inputs[number]}
            if table.rows == 2:
                feeds["guidance"] = scale
            if self.index.stochastic:
                assert step_noise is not None
                feeds["noise"] = step_noise[step]
            feeds |= {f"cache.{slot}": history[str(slot.latest)][slot.age] for slot in program.reads}
            outputs = self.run(self.index.programs[number], feeds)
            for slot in program.writes:
                values = history.setdefault(str(slot), [])
                if slot in program.reads:
                    values.pop(0)
                values.insert(0, outputs[f"cache_out.{slot}"])
            state = outputs["state_out"]
            see(step, outputs)
        return state[0]


def export_and_open(
    loaded: Any, sampler: Any, table: ProgramTable, folder: Path, precision: Precision = "fp32", expose: bool = False
) -> Played:
    """Export a table and open it. expose: the step programs give their selections of tokens, too."""
    folder.mkdir(parents=True, exist_ok=True)
    index = export_programs(loaded, sampler, table, numbers_of(precision), folder, lambda done, total: None, expose)
    return Played(folder, index, table)
