"""TensorRT 10 and 11: engines for the version and the GPU that built them. Needs tensorrt and cuda-python.

Not yet run on a GPU: tests run it on stand-ins for the library and for CUDA.
"""

from __future__ import annotations

from . import DeviceOptions
from .nvidia import NvidiaBackend
from .preflight import Library

LIBRARY = Library("trt", "tensorrt", "TensorRT", "soda-runtime[trt]", portable=False)


def open_backend(device: str, threads: int, weights: str, options: DeviceOptions) -> NvidiaBackend:
    """TensorRT on `device`: cuda or cuda:N; threads and weights: unused."""
    return NvidiaBackend(LIBRARY, device, options)
