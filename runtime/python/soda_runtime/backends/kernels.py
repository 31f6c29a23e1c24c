"""Kernels that TensorRT-RTX compiles where an engine runs, kept in the user's cache folder for the next process.

The library itself judges what is read back (its version, the GPU, the driver). A file that is lost or refused only
means that the kernels are compiled again.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from ..remembered import cache_folder


class KernelCache:
    """The kernels of one engine, and the configuration of its contexts that uses them."""

    def __init__(self, trt: Any, engine: Any, content: str, target: str) -> None:
        name = hashlib.sha256(f"{content} {trt.__version__} {target}".encode()).hexdigest()[:32]
        self._path = cache_folder() / "trt-rtx-kernels" / name
        self.config = engine.create_runtime_config()
        self.config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        # a binding's shapes never change: kernels for them are wanted before the loop is recorded, and not exchanged
        # for others in the background, as they would be by default
        strategies = getattr(trt, "DynamicShapesKernelSpecializationStrategy", None)
        if strategies is not None:
            self.config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        self._cache = self.config.create_runtime_cache()
        known = _read(self._path)
        self._read = known if known and self._cache.deserialize(known) else b""
        self.config.set_runtime_cache(self._cache)

    def save(self) -> None:
        """Write what has been compiled since; best effort."""
        content = bytes(memoryview(self._cache.serialize()))
        if content == self._read:
            return
        scratch = self._path.with_suffix(f".{os.getpid()}.tmp")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            scratch.write_bytes(content)
            scratch.replace(self._path)
        except OSError:
            return
        self._read = content


def has_kernel_cache(engine: Any) -> bool:
    """Whether the library compiles kernels where an engine runs: TensorRT-RTX does, TensorRT does not."""
    return hasattr(engine, "create_runtime_config") and hasattr(engine.create_runtime_config(), "create_runtime_cache")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
