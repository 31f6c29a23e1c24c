"""TensorRT 10 and 11: engines for the version and the GPU that built them. Needs tensorrt and cuda-python.

Not run on a GPU yet: tests run it on stand-ins for the library and for CUDA.
"""

from __future__ import annotations

from . import DeviceOptions
from .nvidia import Library, NvidiaBackend

LIBRARY = Library("trt", "tensorrt", "TensorRT", "soda-runtime[trt]", portable=False)


def open_backend(device: str, threads: int, weights: str, options: DeviceOptions) -> NvidiaBackend:
    """TensorRT on `device`: cuda or cuda:N; threads and weights: unused."""
    return NvidiaBackend(LIBRARY, device, options)
