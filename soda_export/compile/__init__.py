"""Turn ONNX graphs into engines, one file per library with the same stem as in soda_runtime.backends.

A backend module has `compile_engines(export: Path, names: Sequence[str], out: Path)`: for every graph NAME in folder
`export` it leaves an engine NAME in folder `out`, or raises CompileError; and `library_version() -> str`.
Engines that keep their weights outside find them in the bundle under the name that the graph gives.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

from ..errors import CompileError

REGISTRY = {"ort": "soda_export.compile.ort", "openvino": "soda_export.compile.openvino"}


def check_backend(backend: str) -> None:
    """Refuse a backend that does not exist, before any work is done. Raises CompileError."""
    if backend not in REGISTRY:
        raise CompileError(f"--backend {backend}: not known; available: {', '.join(REGISTRY)}")


def library_version(backend: str) -> str:
    """Version of the backend's engine library: engines made with another one are made again."""
    check_backend(backend)
    version: str = importlib.import_module(REGISTRY[backend]).library_version()
    return version


def compile_engines(backend: str, export: Path, names: Sequence[str], out: Path) -> None:
    """Compile the named graphs for a backend. Raises CompileError."""
    check_backend(backend)
    importlib.import_module(REGISTRY[backend]).compile_engines(export, names, out)
