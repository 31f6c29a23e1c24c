"""TensorRT-RTX: engines for several GPUs, built ahead of time, on a machine without any."""

from __future__ import annotations

from pathlib import Path

from .nvidia.build import build_engine
from .nvidia.library import RTX
from .nvidia.targets import check_rtx_options, why_no_gpu
from .options import EngineOptions

INSTALL = INSTALL_GPU = f"pip install {RTX.install}"


def library_version() -> str:
    """Version of the installed TensorRT-RTX. Raises CompileError."""
    return str(RTX.load().__version__)


def devices() -> list[str]:
    """Where its engines run: on the GPU, if there is one."""
    return [] if why_no_gpu() else ["cuda"]


def check_options(options: EngineOptions) -> None:
    """Refuse what cannot be built here. Raises CompileError."""
    check_rtx_options(options)


def compile_engine(graph: Path, out: Path, options: EngineOptions) -> None:
    """Build one engine. There is no timing cache: TensorRT-RTX times nothing when it builds. Raises CompileError."""
    build_engine(RTX, graph, out, options)
