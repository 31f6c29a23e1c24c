"""Features by their principal axes, few enough that the real samples determine their covariance well."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_AXES = 16


class PrincipalAxes:
    """A PCA of what was seen, [n, d] with n >= 16."""

    def __init__(self, seen: NDArray[np.float64]) -> None:
        self._centre = seen.mean(axis=0)
        self._axes = np.linalg.svd(seen - self._centre, full_matrices=False)[2][:_AXES].T

    def reduced(self, seen: NDArray[np.float64]) -> NDArray[np.float64]:
        """[m, d] -> [m, 16]."""
        found: NDArray[np.float64] = (seen - self._centre) @ self._axes
        return found
