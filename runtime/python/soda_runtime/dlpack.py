"""Device tensors in and out without a copy through the host: the DLPack protocol (dmlc/dlpack, version 0.8) in ctypes.

A consumer says in which stream it will read, and that stream is made to wait for ours; a producer is told ours.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from typing import Any, Protocol

CUDA_DEVICE = 2  # kDLCUDA
_LEGACY_STREAM = 1
_NO_WAIT = -1
_CODES = {(2, 32): "float32", (2, 16): "float16", (4, 16): "bfloat16", (0, 64): "int64"}
_FLOAT = (2, 32)


class Streams(Protocol):
    """What orders streams: soda_runtime.backends.cuda.Cuda."""

    device: int
    stream: int

    def lead(self, stream: int) -> None:
        """Let `stream` wait for our work."""


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )  # fmt: skip


class _Managed(ctypes.Structure):
    pass


_DELETER = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _DELETER))
_DESTRUCTOR = ctypes.CFUNCTYPE(None, ctypes.c_void_p)  # a capsule that is being destroyed must not be counted again


def _function(name: str, result: Any, *arguments: Any) -> Any:
    return ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))


_new_capsule = _function("PyCapsule_New", ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_pointer_in = _function("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
_pointer_at = _function("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
_is_unused = _function("PyCapsule_IsValid", ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)
_exported: dict[int, object] = {}
"""Address of each struct that a consumer may still use -> what it needs; the deleter takes it out."""


class DeviceTensor:
    """A float32 tensor in device memory that torch, cupy or jax take with their from_dlpack, without a copy.

    It keeps its memory alive, and shows what the session writes there: the next request changes it.
    """

    def __init__(self, memory: Any, streams: Streams, shape: tuple[int, ...]) -> None:
        self.shape, self._memory, self._streams = shape, memory, streams

    @property
    def address(self) -> int:
        """Where it begins on the device."""
        return int(self._memory.address)

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA_DEVICE, self._streams.device

    def __dlpack__(self, *, stream: int | None = None, copy: bool | None = None, **_: object) -> Any:
        """A capsule of the tensor; `stream` is the consumer's, and waits for what we have put into ours."""
        if copy:
            raise BufferError("a session hands its latents over where they are; copy them after from_dlpack")
        if stream != _NO_WAIT:
            self._streams.lead(_LEGACY_STREAM if stream is None else int(stream))
        shape = (ctypes.c_int64 * len(self.shape))(*self.shape)
        code, bits = _FLOAT
        tensor = _Tensor(
            self.address, CUDA_DEVICE, self._streams.device, len(self.shape), code, bits, 1,
            ctypes.cast(shape, ctypes.POINTER(ctypes.c_int64)), None, 0,
        )  # fmt: skip
        managed = _Managed(tensor, None, _delete)
        _exported[ctypes.addressof(managed)] = (managed, shape, self._memory)
        return _new_capsule(ctypes.addressof(managed), b"dltensor", ctypes.cast(_destroy, ctypes.c_void_p))


@dataclass(frozen=True)
class DeviceArray:
    """A caller's tensor on a device. owner: keeps it alive."""

    address: int
    device: int
    dtype: str
    shape: tuple[int, ...]
    owner: object

    @property
    def nbytes(self) -> int:
        """Its bytes, without gaps."""
        return math.prod(self.shape) * {"float32": 4, "float16": 2, "bfloat16": 2, "int64": 8}[self.dtype]


def is_on_device(value: object) -> bool:
    """Whether a value is a tensor on a CUDA device."""
    device = getattr(value, "__dlpack_device__", None)
    return device is not None and int(device()[0]) == CUDA_DEVICE


def import_array(value: Any, stream: int) -> DeviceArray:
    """A caller's tensor, ready in our stream. Raises ValueError for a type that we have not, or gaps in memory."""
    capsule = value.__dlpack__(stream=stream)
    managed = ctypes.cast(_pointer_in(capsule, b"dltensor"), ctypes.POINTER(_Managed)).contents
    tensor = managed.tensor
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    dtype = _CODES.get((tensor.code, tensor.bits))
    if dtype is None or tensor.lanes != 1:
        raise ValueError(f"a type of code {tensor.code} and {tensor.bits} bits")
    if tensor.strides and any(
        n > 1 and tensor.strides[i] != math.prod(shape[i + 1 :]) for i, n in enumerate(shape)
    ):  # fmt: skip
        raise ValueError("not contiguous")
    return DeviceArray((tensor.data or 0) + tensor.byte_offset, tensor.device_id, dtype, shape, (capsule, value))


def _forget(managed: Any) -> None:
    _exported.pop(ctypes.addressof(managed.contents), None)


def _end_capsule(capsule: int) -> None:
    """A capsule that nobody took over still has its first name."""
    if _is_unused(capsule, b"dltensor"):
        _exported.pop(int(_pointer_at(capsule, b"dltensor")), None)


_delete, _destroy = _DELETER(_forget), _DESTRUCTOR(_end_capsule)
