"""Options of backends that build engines ahead of time. The one home of each; the command line reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Target = Literal["sm80", "sm86", "sm89", "sm90", "sm120", "current"]


@dataclass(frozen=True)
class EngineOptions:
    """How engines are built. ONNX Runtime's engines are the graphs: it takes none of these."""

    target: tuple[Target, ...] = ()
    """GPUs that the engines are for, one or several; TensorRT builds for the GPU at hand only. [default: current]"""
    optimization_level: int | None = None
    """0 .. 5: how long the library looks for faster kernels. [default: the library's own]"""
    workspace: float | None = None
    """Most GB of scratch memory that a kernel may take. [default: the GPU's memory]"""
    engine_weights: Literal["baked", "stripped", "inputs"] = "baked"
    """Where engines have their weights: a copy in each; left out and put back when the bundle is opened; or bound
    from one device copy that all engines share."""
    max_batch: int = 4
    """Most samples that an engine takes at once; engines are tuned for one."""
