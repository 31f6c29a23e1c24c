"""Weights that stand in the place of a weights file's own, in host memory and in the file's type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUMPY_DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16}
FLOAT_DTYPES = (*NUMPY_DTYPES, "BF16")
"""Types, as safetensors spells them, that `widened` reads."""


@dataclass(frozen=True, eq=False)
class HostTensor:
    """One tensor. dtype: as safetensors spells it. content: its bytes, uint8 [n], row-major."""

    dtype: str
    shape: tuple[int, ...]
    content: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Replaced:
    """By weights file and name. version: 0 where nothing is replaced, else another one for other values."""

    version: int = 0
    files: Mapping[str, Mapping[str, HostTensor]] = field(default_factory=dict)

    def of_program(self, weights: str) -> Mapping[str, HostTensor]:
        """What a program of that weights file takes; "" where an old bundle does not say which is its own."""
        if weights:
            return self.files.get(weights, {})
        return {name: tensor for tensors in self.files.values() for name, tensor in tensors.items()}


def widened(dtype: str, content: bytes | NDArray[np.uint8]) -> NDArray[np.float32]:
    """Bytes of one of FLOAT_DTYPES as float32 [n]; those of an array of float32 are used in place."""
    if dtype == "F32" and isinstance(content, np.ndarray):
        return content.view(np.float32)
    if dtype == "BF16":
        upper = np.frombuffer(content, np.uint16).astype(np.uint32) << 16
        return upper.view(np.float32)
    return np.frombuffer(content, NUMPY_DTYPES[dtype]).astype(np.float32)


def narrowed(dtype: str, values: NDArray[np.float32]) -> HostTensor:
    """float32 in one of FLOAT_DTYPES, rounded to the nearest; what is beyond its range becomes infinite."""
    rounded: NDArray[Any]
    if dtype == "BF16":
        bits = np.ascontiguousarray(values).view(np.uint32)
        rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    else:
        with np.errstate(over="ignore"):
            rounded = np.ascontiguousarray(values, NUMPY_DTYPES[dtype])
    return HostTensor(dtype, values.shape, rounded.reshape(-1).view(np.uint8))
