"""Ask the engine which tokens it chose: export the programs with their selections as outputs, and play them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from soda_runtime import Noise
from torch import Tensor

from soda_export.eager.reference import run_reference
from soda_export.eager.tokens import top_margin, top_tokens
from soda_export.lower.program import ProgramTable
from soda_export.models.precision import Precision
from soda_export.workbench.pipeline import Workbench
from tests.export.play import Arrays, export_and_open

NEAR_TIE = 2e-5
Rows = Mapping[str, Tensor]
Selection = dict[tuple[int, str], np.ndarray[Any, Any]]


class SelectionRecorder:
    """The programs of a table with their selections as outputs, for any number of runs."""

    def __init__(self, bench: Workbench, table: ProgramTable, folder: Path, precision: Precision = "fp32") -> None:
        self._played = export_and_open(bench.loaded, bench.sampler, table, folder, precision, expose=True)

    def record(self, rows: Rows, noise: Noise) -> Selection:
        """(step, site) -> indices [B, keep] that ONNX Runtime's TopK picked. rows: by port, [R, ...]."""
        batch, selection = len(noise.initial), Selection()

        def see(step: int, outputs: Arrays) -> None:
            for name, value in outputs.items():
                kind, _, chosen = name.partition(".")
                if kind == "pairs":
                    selection[step, chosen] = value[:batch, :, 1].copy()

        given = {name: value.numpy() for name, value in rows.items()}
        self._played.generate(given, noise.initial, see=see, step_noise=noise.steps)
        return selection


def play_reference(
    bench: Workbench, table: ProgramTable, rows: Rows, noise: Noise, recorder: SelectionRecorder
) -> np.ndarray[Any, Any]:
    """The reference's latents.

    Tokens are chosen by the reference itself, but by the engine for samples in which the margin cannot decide, which
    must be few; where it can, both must agree.
    """
    selected = recorder.record(rows, noise)
    near_ties = 0

    def choose(step: int, site: str, scores: Tensor, keep: int) -> Tensor:
        nonlocal near_ties
        mine, margin = top_tokens(scores, keep), top_margin(scores, keep)
        theirs = torch.from_numpy(selected[step, site])
        for b in range(len(mine)):
            if margin[b] < NEAR_TIE:
                near_ties += 1
                mine[b] = theirs[b]
            else:
                assert set(mine[b].tolist()) == set(theirs[b].tolist())
        return mine

    steps = None if noise.steps is None else torch.from_numpy(noise.steps)
    latents = run_reference(
        bench.eager, bench.sampler, table, rows, torch.from_numpy(noise.initial), steps, choose=choose
    ).numpy()
    assert near_ties <= 1 + 0.05 * len(selected) * len(noise.initial)
    result: np.ndarray[Any, Any] = latents
    return result


def follow_engine(
    bench: Workbench, table: ProgramTable, rows: Rows, noise: Noise, selected: Selection
) -> np.ndarray[Any, Any]:
    """The reference's latents with the engine's own tokens, for precisions in which scores differ too much."""
    steps = None if noise.steps is None else torch.from_numpy(noise.steps)
    return run_reference(
        bench.eager, bench.sampler, table, rows, torch.from_numpy(noise.initial), steps,
        choose=lambda step, site, scores, keep: torch.from_numpy(selected[step, site]),
    ).numpy()  # fmt: skip


def label_rows(labels: list[int], bench: Workbench) -> dict[str, Tensor]:
    """The port of labels for all rows."""
    port = bench.loaded.spec.port("label")
    assert port is not None
    null = [port.null_class] * len(labels) * (bench.rows - 1)
    return {port.name: torch.tensor([*labels, *null])}
