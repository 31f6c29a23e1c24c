"""TensorRT 10 and 11: engines for the GPU at hand.

Not run on a GPU yet: the code that it shares with TensorRT-RTX is tested there, and what differs against a stand-in for
the library.
"""

from __future__ import annotations

from pathlib import Path

from .nvidia.build import build_engine
from .nvidia.library import TENSORRT
from .nvidia.targets import check_trt_options, why_no_gpu
from .options import EngineOptions

INSTALL = INSTALL_GPU = f"pip install {TENSORRT.install}"


def library_version() -> str:
    """Version of the installed TensorRT. Raises CompileError."""
    return str(TENSORRT.load().__version__)


def devices() -> list[str]:
    """Where its engines run: on the GPU, if there is one."""
    return [] if why_no_gpu() else ["cuda"]


def check_options(options: EngineOptions) -> None:
    """Refuse what cannot be built here. Raises CompileError."""
    check_trt_options(options)


def compile_engine(graph: Path, out: Path, options: EngineOptions) -> None:
    """Build one engine, with the timings of those built before in the same store. Raises CompileError."""
    build_engine(TENSORRT, graph, out, options, timing_cache=out.parent / "trt-timing.cache")
