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
from .nvidia.targets import why_no_gpu

log = logging.getLogger(__name__)
INSTALL, INSTALL_GPU = "pip install soda-runtime[ort]", "pip install soda-runtime[ort-gpu]"
_DEVICES = {"CPUExecutionProvider": "cpu", "CUDAExecutionProvider": "cuda"}


def library_version() -> str:
    """Version of the installed ONNX Runtime. Raises CompileError."""
    return str(_onnxruntime().__version__)


def devices() -> list[str]:
    """By the providers that this build of ONNX Runtime has, and whether there is a GPU."""
    return sorted(providers() - {"cuda"} if why_no_gpu() else providers())


def providers() -> set[str]:
    """Devices that this build of ONNX Runtime has providers for, whether there is one or not."""
    return {_DEVICES[name] for name in _onnxruntime().get_available_providers() if name in _DEVICES}


def compile_engines(export: Path, names: Sequence[str], out: Path) -> None:
    """Prove that ONNX Runtime accepts every graph, and copy it. Raises CompileError.

    Its CPU provider has no bfloat16 products: such graphs are copied unproved, with a warning, for the CUDA provider.
    """
    ort = _onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # only acceptance is asked
    options.add_session_config_entry("session.disable_prepacking", "1")
    started = time.perf_counter()
    unproved = 0
    for name in names:
        try:
            ort.InferenceSession(str(export / name), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            if "NOT_IMPLEMENTED" not in str(error) or not _has_bfloat16(export / name):
                where = f"{export / name}: ONNX Runtime {ort.__version__}"
                raise CompileError(f"{where} refuses the graph: {error}") from None
            unproved += 1
        shutil.copyfile(export / name, out / name)
    if unproved:
        log.warning("compile: %d bfloat16 graphs need ONNX Runtime's CUDA provider; its CPU provider refuses", unproved)
    seconds = time.perf_counter() - started
    log.info("compile: %d engines for ONNX Runtime %s in %.1f s", len(names), ort.__version__, seconds)


def _has_bfloat16(path: Path) -> bool:
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    return any(tensor.data_type == onnx.TensorProto.BFLOAT16 for tensor in graph.initializer)


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise CompileError(f"onnxruntime is not installed; run `{INSTALL}`") from None
    return onnxruntime
