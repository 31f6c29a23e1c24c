"""Kernels that TensorRT-RTX compiles where an engine runs, kept in the user's cache folder for the next process.

The library itself judges what is read back (its version, the GPU, the driver). A file that is lost or refused only
means that the kernels are compiled again.
"""

from __future__ import annotations

import hashlib
from typing import Any

from ..remembered import cache_folder, read_cached, write_cached

_MAX_BYTES = 1 << 30  # of one engine's kernels


class KernelCache:
    """The kernels of one engine, and the configuration of its contexts that uses them."""

    def __init__(self, trt: Any, engine: Any, content: str, target: str) -> None:
        name = hashlib.sha256(f"{content} {trt.__version__} {target}".encode()).hexdigest()[:32]
        folder = cache_folder()
        self._path = folder / "trt-rtx-kernels" / name if folder else None
        self.config = engine.create_runtime_config()
        self.config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        # a binding's shapes never change: kernels for them are wanted before the loop is recorded, and not exchanged
        # for others in the background, as they would be by default
        strategies = getattr(trt, "DynamicShapesKernelSpecializationStrategy", None)
        if strategies is not None:
            self.config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        self._cache = self.config.create_runtime_cache()
        known = read_cached(self._path, _MAX_BYTES) if self._path else b""
        self._read = known if known and self._cache.deserialize(known) else b""
        self.config.set_runtime_cache(self._cache)

    def save(self) -> None:
        """Write what has been compiled since; best effort."""
        content = bytes(memoryview(self._cache.serialize()))
        if content == self._read or self._path is None:
            return
        write_cached(self._path, content)
        self._read = content


def has_kernel_cache(engine: Any) -> bool:
    """Whether the library compiles kernels where an engine runs: TensorRT-RTX does, TensorRT does not."""
    return hasattr(engine, "create_runtime_config") and hasattr(engine.create_runtime_config(), "create_runtime_cache")
