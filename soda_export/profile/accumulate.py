"""Running sums of errors over samples, written to disk after every batch so that a killed profile resumes."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..files import replacing
from ..plan.sensitivity import MAX_INTERVAL, RATES

_NAMES = ("sums", "squares", "half", "samples_done")


class ErrorSums:
    """Sums and sums of squares over samples: [S, K, I, 1 + P], last axis: reuse, then each rate.

    half: [S, K, I], reuse errors of every second sample alone, to tell how far the other half agrees.
    """

    def __init__(self, steps: int, sites: int) -> None:
        shape = (steps, sites, MAX_INTERVAL, 1 + len(RATES))
        self.sums, self.squares, self.half = np.zeros(shape), np.zeros(shape), np.zeros(shape[:-1])
        self.samples_done = 0  # in order

    def add(self, step: int, site: int, errors: NDArray[np.float64]) -> None:
        """Add a batch's errors [I, B, 1 + P], or [I, B, 1] where the site has no renewals; the rates then stay 0.

        The batch's first sample is number `samples_done`.
        """
        intervals, _, columns = errors.shape
        self.sums[step, site, :intervals, :columns] += errors.sum(axis=1)
        self.squares[step, site, :intervals, :columns] += (errors * errors).sum(axis=1)
        self.half[step, site, :intervals] += errors[:, self.samples_done % 2 :: 2, 0].sum(axis=1)

    def save(self, path: Path) -> None:
        """Write atomically."""
        path.parent.mkdir(parents=True, exist_ok=True)  # another build of the same map may have tidied up
        with replacing(path) as scratch, scratch.open("wb") as file:
            np.savez(file, **{name: getattr(self, name) for name in _NAMES})

    def load(self, path: Path) -> None:
        """Continue from what `save` wrote, if it is there and whole."""
        try:
            with path.open("rb") as file, np.load(file) as data:
                arrays = {name: data[name] for name in data.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            return
        if arrays.keys() == set(_NAMES) and arrays["sums"].shape == self.sums.shape:
            self.sums, self.squares, self.half = arrays["sums"], arrays["squares"], arrays["half"]
            self.samples_done = int(arrays["samples_done"])
