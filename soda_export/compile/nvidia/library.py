"""The two libraries with TensorRT's Python API: which module each is, and what it can."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from ...errors import CompileError


@dataclass(frozen=True)
class Library:
    """backend: its name in bundles; module: to import; title: for people; install: the package that has it."""

    backend: str
    module: str
    title: str
    install: str

    def load(self) -> Any:
        """The library's module. Raises CompileError."""
        try:
            return importlib.import_module(self.module)
        except ImportError:
            raise CompileError(f"{self.title} is not installed; run `pip install {self.install}`") from None


RTX = Library("trt_rtx", "tensorrt_rtx", "TensorRT-RTX", "soda-runtime[trt-rtx]")
TENSORRT = Library("trt", "tensorrt", "TensorRT", "soda-runtime[trt]")
