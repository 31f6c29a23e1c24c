"""TensorRT-RTX: engines built ahead of time for several GPUs. Needs tensorrt-rtx, cuda-python and an RTX GPU.

Not yet run on a GPU: tests run it on stand-ins for the library and for CUDA.
"""

from __future__ import annotations

from . import DeviceOptions
from .nvidia import NvidiaBackend
from .preflight import Library

LIBRARY = Library("trt_rtx", "tensorrt_rtx", "TensorRT-RTX", "soda-runtime[trt-rtx]", portable=True)


def open_backend(device: str, threads: int, weights: str, options: DeviceOptions) -> NvidiaBackend:
    """TensorRT-RTX on `device`: cuda or cuda:N; threads and weights: unused."""
    return NvidiaBackend(LIBRARY, device, options)
