"""Turn ONNX graphs into engines, one file per library with the same stem as in soda_runtime.backends.

A backend module has `compile_engines(export: Path, names: Sequence[str], out: Path)`: for every graph NAME in folder
`export` it leaves an engine NAME in folder `out`, or raises CompileError; and `library_version() -> str`.
Engines that keep their weights outside find them in the bundle under the name that the graph gives.

Where building takes long, the module has `check_options(options)` and `compile_engine(graph: Path, out: Path, options)`
instead, and is in AHEAD_OF_TIME: its engines are kept by the content of their graph (soda_export/engines.py).
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import CompileError
from .options import EngineOptions

REGISTRY = {
    "ort": "soda_export.compile.ort", "trt": "soda_export.compile.trt", "trt_rtx": "soda_export.compile.trt_rtx"
}  # fmt: skip
AHEAD_OF_TIME = frozenset({"trt", "trt_rtx"})


def check_backend(backend: str, options: EngineOptions = EngineOptions()) -> None:
    """Refuse a backend that does not exist, or options it does not have, before any work. Raises CompileError."""
    module = _module(backend)
    if backend in AHEAD_OF_TIME:
        module.check_options(options)
    elif options != EngineOptions():
        raise CompileError(f"--backend {backend}: builds no engines of its own; leave the Engines options out")


def library_version(backend: str) -> str:
    """Version of the backend's engine library: engines made with another one are made again."""
    version: str = _module(backend).library_version()
    return version


def compile_engines(backend: str, export: Path, names: Sequence[str], out: Path) -> None:
    """Compile the named graphs for a backend that is not in AHEAD_OF_TIME. Raises CompileError."""
    _module(backend).compile_engines(export, names, out)


def compile_engine(backend: str, graph: Path, out: Path, options: EngineOptions) -> None:
    """Build one graph's engine for a backend in AHEAD_OF_TIME: ENGINE_NAME and CARD_NAME in folder `out`.

    Raises CompileError.
    """
    _module(backend).compile_engine(graph, out, options)


def _module(backend: str) -> Any:
    if backend not in REGISTRY:
        raise CompileError(f"--backend {backend}: not known; available: {', '.join(REGISTRY)}")
    return importlib.import_module(REGISTRY[backend])
