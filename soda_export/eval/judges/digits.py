"""The judge of `digits`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class DigitsModelJudge:
    """Classifier and PCA features of eval/digits.py; seed s was asked for digit s mod 10."""

    def __init__(self) -> None:
        from ..digits import DigitsJudge

        self._judge = DigitsJudge()

    def features(self, images: NDArray[np.float32]) -> NDArray[np.float64]:
        """[n, 1, 8, 8] -> [n, 16]."""
        return self._judge.features(2 * images - 1)

    def real_features(self) -> NDArray[np.float64]:
        """Of the held-out digits: [360, 16]."""
        return self._judge.held_out_features()

    def verdicts(self, images: NDArray[np.float32], seeds: range) -> NDArray[np.bool_]:
        """Whether each is recognised as its digit: [n]."""
        return self._judge.recognised(2 * images - 1, np.array(seeds) % 10)

    def overlaps(self, images: NDArray[np.float32], seeds: range) -> None:
        """Nothing tells where a digit is to be."""
