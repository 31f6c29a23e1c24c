"""Turn ONNX graphs into engines, one file per library with the same stem as in soda_runtime.backends.

A backend module has
- `library_version() -> str`, or CompileError where the library is missing;
- `devices() -> list[str]`: where its engines run on this machine;
- `INSTALL`: the command that installs the library, and `INSTALL_GPU` where its engines run on GPUs: the one for that;
- `compile_engines(export: Path, names: Sequence[str], out: Path)`: for every graph NAME in folder `export` it leaves an
  engine NAME in folder `out`, or raises CompileError. Engines that keep their weights outside find them in the bundle
  under the name that the graph gives.

Where building takes long, the module has `check_options(options)` and `compile_engine(graph: Path, out: Path, options)`
instead of the last, and is in AHEAD_OF_TIME: its engines are kept by the content of their graph
(soda_export/workbench/engines.py).
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..errors import CompileError
from ..models.precision import Precision
from .nvidia.targets import why_no_gpu
from .options import EngineOptions
from .places import check_precision, why_unable

REGISTRY = {
    "ort": "soda_export.compile.ort",
    "openvino": "soda_export.compile.openvino",
    "trt": "soda_export.compile.trt",
    "trt_rtx": "soda_export.compile.trt_rtx",
}
AHEAD_OF_TIME = frozenset({"trt", "trt_rtx"})
GRAPH_BACKENDS = ("ort", "openvino")
"""Backends whose engines are the graphs themselves: a bundle of one opens with the other."""
AUTO = "auto"


class BackendStatus(msgspec.Struct, frozen=True):
    """What a machine has of a backend. version: "" where the library is missing; install: the command to get it;
    no_gpu: why its engines do not run on a GPU here, "" where they do or never would."""

    name: str
    version: str
    devices: tuple[str, ...]
    install: str
    no_gpu: str = ""


def check_backend(backend: str, options: EngineOptions = EngineOptions(), precision: Precision = "fp32") -> None:
    """Refuse, before any work, a backend that does not exist or is not installed, and options or a precision that it
    does not have. Raises CompileError."""
    if backend != AUTO:
        check_precision(backend, precision)
        library_version(backend)
    unable = why_unable(backend, "cpu", precision)
    if backend == "ort" and unable and "cuda" not in _module(backend).providers():
        raise CompileError(
            f"--precision {precision}: {unable}; add --backend openvino, or "
            f"`{_module(backend).INSTALL_GPU}` for its CUDA provider"
        )
    if backend in AHEAD_OF_TIME:
        _module(backend).check_options(options)
    elif options != EngineOptions():
        why = "builds its engines with no options" if backend == AUTO else "builds no engines of its own"
        raise CompileError(f"--backend {backend}: {why}; leave the Engines options out")


def library_version(backend: str) -> str:
    """Version of the backend's engine library: engines made with another one are made again. Raises CompileError."""
    version: str = _module(backend).library_version()
    return version


def why_not_played(backend: str, precision: str) -> str:
    """Why no bundle of that backend and precision can be played on this machine, "" where one can."""
    if unable := why_unable(backend, "cpu", precision):
        return f"{precision}: {unable}"
    status = backend_status(backend)
    return "" if status.devices else f"{backend} has no device here: {status.no_gpu or status.install}"


def compile_engines(backend: str, export: Path, names: Sequence[str], out: Path) -> None:
    """Compile the named graphs for a backend that is not in AHEAD_OF_TIME. Raises CompileError."""
    _module(backend).compile_engines(export, names, out)


def compile_engine(backend: str, graph: Path, out: Path, options: EngineOptions) -> None:
    """Build one graph's engine for a backend in AHEAD_OF_TIME: ENGINE_NAME and CARD_NAME in folder `out`.

    Raises CompileError.
    """
    _module(backend).compile_engine(graph, out, options)


def backend_status(backend: str) -> BackendStatus:
    """Whether the backend's library is there, and where it would run."""
    module = _module(backend)
    try:
        version = module.library_version()
    except CompileError:
        return BackendStatus(backend, "", (), module.INSTALL)
    devices, gpu = tuple(module.devices()), getattr(module, "INSTALL_GPU", "")
    no_gpu = why_no_gpu() or f"run `{gpu}`" if gpu and "cuda" not in devices else ""
    return BackendStatus(backend, version, devices, module.INSTALL, no_gpu)


def _module(backend: str) -> Any:
    if backend not in REGISTRY:
        raise CompileError(f"--backend {backend}: not known; available: {', '.join((*REGISTRY, AUTO))}")
    return importlib.import_module(REGISTRY[backend])
