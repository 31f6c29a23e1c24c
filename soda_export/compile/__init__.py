"""Turn ONNX graphs into engines, one file per library with the same stem as in soda_runtime.backends.

A backend module has `compile_engines(export: Path, names: Sequence[str], out: Path)`: for every graph NAME in folder
`export` it leaves an engine NAME in folder `out`, or raises CompileError. The weights file is linked in both folders.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

from ..errors import CompileError

REGISTRY = {"ort": "soda_export.compile.ort"}


def compile_engines(backend: str, export: Path, names: Sequence[str], out: Path) -> None:
    """Compile the named graphs for a backend. Raises CompileError."""
    if backend not in REGISTRY:
        raise CompileError(f"--backend {backend}: not known; available: {', '.join(REGISTRY)}")
    importlib.import_module(REGISTRY[backend]).compile_engines(export, names, out)
