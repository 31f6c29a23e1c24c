"""What an engine library must offer to the runtime, and the table of libraries.

A backend owns memory and opens engines; an engine binds addresses once and is then called with no arguments.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from ..errors import EngineError
from ..signature import Signature

REGISTRY = {
    "ort": "soda_runtime.backends.ort",
    "openvino": "soda_runtime.backends.openvino",
    "null": "soda_runtime.backends.null",
}


class Memory(Protocol):
    """A block of memory where a backend's engines can read and write; freed with the object."""

    nbytes: int

    def write(self, array: NDArray[Any]) -> None:
        """Copy a host array of exactly nbytes into the block."""

    def read(self) -> NDArray[Any]:
        """Copy the block to the host, as uint8 [nbytes]."""


@dataclass(frozen=True)
class View:
    """A tensor inside a block: it keeps the block alive. dtype as numpy spells it, offset in bytes."""

    memory: Memory
    offset: int
    dtype: str
    shape: tuple[int, ...]


class Engine(Protocol):
    """One opened program. Safe to bind and to call from several threads."""

    def bind(
        self, label: str, inputs: Mapping[str, View], outputs: Mapping[str, View]
    ) -> Callable[[], None]:
        """Fix all addresses and return the call. `label` names the step in error messages.

        An input and an output may be the same view: the engine then updates it in place.
        """


class Backend(Protocol):
    """An engine library on one device."""

    def allocate(self, nbytes: int) -> Memory:
        """A zeroed block of memory, aligned to 256 bytes or the device's own larger unit."""

    def open_engine(self, path: Path, signature: Signature, once: bool = False) -> Engine:
        """Open one program and check that its inputs and outputs are the signature's.

        once: it runs once per request, so memory matters more than its speed.
        """


WEIGHTS = ("", "prepacked", "shared")
"""How engines hold weights: the backend's faster way, a copy an engine in its kernels' order, or one for all."""


def open_backend(name: str, device: str, threads: int, weights: str = "") -> Backend:
    """Import and start the backend `name`; `threads` 0 lets the library choose. weights: one of WEIGHTS."""
    if weights not in WEIGHTS:
        raise EngineError(f"weights {weights!r}: must be {' or '.join(filter(None, WEIGHTS))}")
    if name not in REGISTRY:
        raise EngineError(f"backend {name!r} is unknown to this runtime; it has {', '.join(sorted(REGISTRY))}")
    module = importlib.import_module(REGISTRY[name])
    backend: Backend = module.open_backend(device, threads, weights)
    return backend
