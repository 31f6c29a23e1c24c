"""Running sums of errors over samples, written to disk after every batch so that a killed profile resumes."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..plan.sensitivity import MAX_INTERVAL, RATES


class ErrorSums:
    """Sums and sums of squares over samples. module: [S, L, M, I, 1 + P] (reuse, then each rate); hidden: [S, I].

    half: [S, L, M, I], reuse errors of every second sample alone, to tell how far the other half agrees.
    """

    def __init__(self, steps: int, layers: int, modules: int) -> None:
        shape = (steps, layers, modules, MAX_INTERVAL, 1 + len(RATES))
        self.module_sum, self.module_squares = np.zeros(shape), np.zeros(shape)
        self.half_sum = np.zeros(shape[:-1])
        self.hidden_sum = np.zeros((steps, MAX_INTERVAL))
        self.units_done = 0  # (layer range, batch) pairs, in order

    def add_module(self, step: int, layer: int, module: int, interval: int, errors: NDArray[np.float64]) -> None:
        """Add a batch's errors [B, 1 + P]."""
        self.module_sum[step, layer, module, interval - 1] += errors.sum(axis=0)
        self.module_squares[step, layer, module, interval - 1] += (errors * errors).sum(axis=0)
        self.half_sum[step, layer, module, interval - 1] += errors[::2, 0].sum()

    def add_hidden(self, step: int, interval: int, error: float) -> None:
        """Add a batch's summed error of the last block's output."""
        self.hidden_sum[step, interval - 1] += error

    def save(self, path: Path) -> None:
        """Write atomically."""
        path.parent.mkdir(parents=True, exist_ok=True)  # another build of the same map may have tidied up
        scratch = path.with_suffix(f".{os.getpid()}.tmp")
        with scratch.open("wb") as file:
            np.savez(
                file, module_sum=self.module_sum, module_squares=self.module_squares, hidden_sum=self.hidden_sum,
                half_sum=self.half_sum, units_done=self.units_done,
            )  # fmt: skip
        scratch.replace(path)

    def load(self, path: Path) -> None:
        """Continue from what `save` wrote, if it is there and whole."""
        try:
            with path.open("rb") as file, np.load(file) as data:
                arrays = {name: data[name] for name in data.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            return
        names = {"module_sum", "module_squares", "hidden_sum", "half_sum", "units_done"}
        if arrays.keys() == names and arrays["module_sum"].shape == self.module_sum.shape:
            self.module_sum, self.module_squares = arrays["module_sum"], arrays["module_squares"]
            self.hidden_sum, self.half_sum = arrays["hidden_sum"], arrays["half_sum"]
            self.units_done = int(arrays["units_done"])
