"""Turn ONNX graphs into engines, one file per library with the same stem as in soda_runtime.backends.

A backend module has
- `compile_engines(export: Path, names: Sequence[str], out: Path)`: for every graph NAME in folder `export` it leaves an
  engine NAME in folder `out`, or raises CompileError. Engines that keep their weights outside find them in the bundle
  under the name that the graph gives;
- `library_version() -> str`, or CompileError where the library is missing;
- `devices() -> list[str]`: where its engines run on this machine;
- `INSTALL`: the command that installs the library.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..errors import CompileError
from ..models.precision import Precision

REGISTRY = {"ort": "soda_export.compile.ort", "openvino": "soda_export.compile.openvino"}
GRAPH_BACKENDS = ("ort", "openvino")
"""Backends whose engines are the graphs themselves: a bundle of one opens with the other."""
AUTO = "auto"


class BackendStatus(msgspec.Struct, frozen=True):
    """What a machine has of a backend. version: "" where the library is missing; install: the command to get it."""

    name: str
    version: str
    devices: tuple[str, ...]
    install: str


def check_backend(backend: str) -> None:
    """Refuse a backend that does not exist, before any work is done. Raises CompileError."""
    if backend not in (*REGISTRY, AUTO):
        raise CompileError(f"--backend {backend}: not known; available: {', '.join((*REGISTRY, AUTO))}")


def check_precision(backend: str, precision: Precision) -> None:
    """Refuse what a backend cannot run well. Raises CompileError."""
    if precision == "int8-weights" and backend != "openvino":
        raise CompileError(f"--precision {precision}: {backend} would unpack it at every step; add --backend openvino")


def library_version(backend: str) -> str:
    """Version of the backend's engine library: engines made with another one are made again. Raises CompileError."""
    version: str = _module(backend).library_version()
    return version


def compile_engines(backend: str, export: Path, names: Sequence[str], out: Path) -> None:
    """Compile the named graphs for a backend. Raises CompileError."""
    _module(backend).compile_engines(export, names, out)


def backend_status(backend: str) -> BackendStatus:
    """Whether the backend's library is there, and where it would run."""
    module = _module(backend)
    try:
        version = module.library_version()
    except CompileError:
        return BackendStatus(backend, "", (), module.INSTALL)
    return BackendStatus(backend, version, tuple(module.devices()), module.INSTALL)


def _module(backend: str) -> Any:
    check_backend(backend)
    return importlib.import_module(REGISTRY[backend])
