"""OpenVINO: the graphs are the engines. Each is read and asked whether the CPU plugin runs every operator.

OpenVINO compiles a graph in the time that reading its own cache of it takes, and that cache holds a second copy of the
weights; so none is kept (docs/decisions/0020).
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from soda_runtime.backends.openvino import process_core

from ..errors import CompileError

log = logging.getLogger(__name__)
INSTALL = "pip install soda-runtime[openvino]"


def library_version() -> str:
    """Version of the installed OpenVINO. Raises CompileError."""
    version: str = _openvino().__version__
    return version.partition("-")[0]


def devices() -> list[str]:
    """The runtime plays OpenVINO engines on the CPU."""
    return ["cpu"]


def compile_engines(export: Path, names: Sequence[str], out: Path) -> None:
    """Prove that OpenVINO's CPU plugin accepts every graph, and copy it. Raises CompileError."""
    _openvino()
    core, started = process_core(), time.perf_counter()
    for name in names:
        try:
            model = core.read_model(export / name)
            supported = core.query_model(model, "CPU")
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise CompileError(f"{export / name}: OpenVINO {library_version()} refuses the graph: {reason}") from None
        for node in model.get_ops():
            if node.get_friendly_name() not in supported:
                what = f"{node.get_friendly_name()} ({node.get_type_name()})"
                raise CompileError(f"{export / name}: OpenVINO {library_version()} has no CPU kernel for {what}")
        shutil.copyfile(export / name, out / name)
    seconds = time.perf_counter() - started
    log.info("compile: %d engines for OpenVINO %s in %.1f s", len(names), library_version(), seconds)


def _openvino() -> Any:
    try:
        import openvino
    except ImportError:
        raise CompileError(f"openvino is not installed; run `{INSTALL}`") from None
    return openvino
