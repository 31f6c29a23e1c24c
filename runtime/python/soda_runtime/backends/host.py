"""Host memory for backends whose engines run on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError

_ALIGNMENT_BYTES = 256


class HostMemory:
    """A zeroed, aligned block of host memory."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        try:
            block = np.zeros(nbytes + _ALIGNMENT_BYTES, np.uint8)
        except (MemoryError, ValueError, OverflowError):  # numpy has several words for too much
            raise EngineError(f"{nbytes} bytes of host memory cannot be had; use a smaller batch") from None
        start = -block.ctypes.data % _ALIGNMENT_BYTES
        self.bytes = block[start : start + nbytes]
        self.address = int(self.bytes.ctypes.data)

    def write(self, array: NDArray[Any]) -> None:
        """Copy a host array of exactly nbytes into the block."""
        if array.ndim != 1 or array.itemsize != 1:
            array = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        self.bytes[:] = array

    def clear(self) -> None:
        """Fill the block with zeros."""
        self.bytes[:] = 0

    def read(self) -> NDArray[Any]:
        """A copy of the block, uint8 [nbytes]."""
        return self.bytes.copy()

    def free(self) -> None:
        """The block goes with its last reference: the caller's arrays may still be views of it."""
