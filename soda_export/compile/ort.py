"""ONNX Runtime: the graphs are the engines. Each is opened once, so that a refusal shows here and not at the user's.

ONNX Runtime's own saved optimised model is not used: it writes a second, larger copy of the weights (docs/decisions).
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import CompileError

log = logging.getLogger(__name__)


def library_version() -> str:
    """Version of the installed ONNX Runtime. Raises CompileError."""
    return str(_onnxruntime().__version__)


def compile_engines(export: Path, names: Sequence[str], out: Path) -> None:
    """Prove that ONNX Runtime accepts every graph, and copy it. Raises CompileError."""
    ort = _onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # only acceptance is asked
    options.add_session_config_entry("session.disable_prepacking", "1")
    started = time.perf_counter()
    for name in names:
        try:
            ort.InferenceSession(str(export / name), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise CompileError(f"{export / name}: ONNX Runtime {ort.__version__} refuses the graph: {error}") from None
        shutil.copyfile(export / name, out / name)
    seconds = time.perf_counter() - started
    log.info("compile: %d engines for ONNX Runtime %s in %.1f s", len(names), ort.__version__, seconds)


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise CompileError("onnxruntime is not installed; run `pip install soda-runtime[ort]`") from None
    return onnxruntime
