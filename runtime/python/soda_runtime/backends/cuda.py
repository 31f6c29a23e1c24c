"""CUDA without torch: device memory, one stream, graphs, through cuda-python's binding of the CUDA runtime.

Everything that runs is put into one stream in order; the host waits only where it reads results back, or where a
block that work may still use is freed. Not yet run on a GPU: a recording stand-in for the
binding checks order, lifetimes and addresses (tests/runtime/fake_cuda.py).
"""

from __future__ import annotations

import ctypes
import importlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError
from ..guard import OpenedHere

_STAGING_BYTES = 1 << 20  # least pinned memory; it grows with what is written
_MAX_STAGING_BYTES = 64 << 20  # larger arrays are copied in pieces
_INSUFFICIENT_DRIVER = 35  # cudaErrorInsufficientDriver: also where there is no driver at all
_TOO_OLD = "; where there is a GPU, renew its driver or run `pip install 'cuda-python<13'`"


class Cuda(OpenedHere):
    """One device and one stream on it. stream: a handle of the caller's, who keeps it alive; 0 makes one."""

    def __init__(self, device: int = 0, stream: int = 0) -> None:
        super().__init__()
        self._api, self.device = _binding(), device
        self.lock = threading.RLock()  # held while work is put into the stream, so that a capture takes only its own
        self.is_capturing = self.is_closed = False
        self.to_free: list[int] = []
        self._kept: list[object] = []
        try:
            self.use_device()
        except EngineError as error:
            raise EngineError(f"no CUDA device {device} here ({error}); these engines run on an NVIDIA GPU") from None
        self._own = stream == 0
        self.stream = int(self.call("cudaStreamCreateWithFlags", 1)) if self._own else stream  # 1: non-blocking
        self._staging = Staging(self)
        self._end = weakref.finalize(self, _end, self._api, self.stream, self._own, self._staging.blocks, os.getpid())

    def call(self, name: str, *args: Any) -> Any:
        """Call a function of the CUDA runtime; its result, or None. Raises EngineError."""
        return checked_call(self._api, name, *args)

    def use_device(self) -> None:
        """Make the device current in this thread: each has its own, which other libraries change as well."""
        self.call("cudaSetDevice", self.device)

    @property
    def target(self) -> str:
        """The device's kind as engines name it, e.g. sm89."""
        return device_target(self.device)

    def allocate(self, nbytes: int) -> DeviceMemory:
        """A zeroed block of device memory; CUDA aligns it to 256 bytes or more."""
        return DeviceMemory(self, nbytes)

    def allocate_raw(self, nbytes: int) -> int:
        """The address of a new block that the caller frees."""
        self.use_device()
        try:
            return int(self.call("cudaMalloc", max(1, nbytes)))
        except EngineError as error:
            raise EngineError(f"{nbytes} bytes of device memory cannot be had ({error}); use a smaller batch") from None

    def copy_in(self, address: int, content: NDArray[np.uint8]) -> None:
        """Copy host bytes to the device by way of pinned memory, in the order of the stream."""
        with self.lock:
            self.use_device()
            for begin in range(0, content.size, _MAX_STAGING_BYTES):
                part = content[begin : begin + _MAX_STAGING_BYTES]
                pinned = self._staging.put(part)
                self._copy(address + begin, pinned, part.size, "HostToDevice")

    def copy_out(self, address: int, nbytes: int) -> NDArray[np.uint8]:
        """Wait for the stream and copy device bytes to the host."""
        result = np.empty(nbytes, np.uint8)
        with self.lock:
            self.use_device()
            for begin in range(0, nbytes, _MAX_STAGING_BYTES):
                size = min(_MAX_STAGING_BYTES, nbytes - begin)
                pinned = self._staging.room(size)
                self._copy(pinned, address + begin, size, "DeviceToHost")
                self.synchronize()
                result[begin : begin + size] = self._staging.view(pinned, size)
        return result

    def copy_on_device(self, target: int, source: int, nbytes: int) -> None:
        """Copy between device addresses, in the order of the stream."""
        self._copy(target, source, nbytes, "DeviceToDevice")

    def synchronize(self) -> None:
        """Wait until everything in the stream is done."""
        self.call("cudaStreamSynchronize", self.stream)
        self._staging.used = 0
        self._kept.clear()

    def keep(self, used: object) -> None:
        """Keep what work in the stream reads, at least until the stream has been waited for."""
        self._kept.append(used)

    def follow(self, stream: int) -> None:
        """What is put into our stream from now on waits for what is in `stream` now."""
        self._wait(self.stream, stream)

    def lead(self, stream: int) -> None:
        """What is put into `stream` from now on waits for what is in our stream now."""
        self._wait(stream, self.stream)

    def capture(self, work: Callable[[], None]) -> Graph:
        """Record what `work` puts into the stream, without running it. Raises EngineError where CUDA refuses."""
        with self.lock:
            mode = self._api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
            self.is_capturing, finished = True, False
            try:
                self.call("cudaStreamBeginCapture", self.stream, mode)
                work()
                finished = True
            finally:
                try:
                    status, graph = self._api.cudaStreamEndCapture(self.stream)  # whatever it says, it is over
                    if not finished and graph:
                        self._api.cudaGraphDestroy(graph)
                finally:
                    self.is_capturing = False
                    self._free_put_off()
            check(self._api, "cudaStreamEndCapture", status)
            try:
                return Graph(self, self.call("cudaGraphInstantiate", graph, 0))
            finally:
                self.call("cudaGraphDestroy", graph)

    def close(self) -> None:
        """Wait for the stream, and destroy it where it is ours. Blocks that are still alive stay so."""
        with self.lock:
            self.is_closed = True
            self._end()

    def _free_put_off(self) -> None:
        while self.to_free:
            free_after_work(self, self.to_free.pop())

    def _wait(self, waiting: int, awaited: int) -> None:
        self.use_device()
        event = self.call("cudaEventCreateWithFlags", 2)  # 2: no timing
        try:
            self.call("cudaEventRecord", event, awaited)
            self.call("cudaStreamWaitEvent", waiting, event, 0)
        finally:
            self.call("cudaEventDestroy", event)

    def _copy(self, target: int, source: int, nbytes: int, direction: str) -> None:
        kind = getattr(self._api.cudaMemcpyKind, f"cudaMemcpy{direction}")
        self.call("cudaMemcpyAsync", target, source, nbytes, kind, self.stream)


class DeviceMemory:
    """A zeroed block of device memory; freed with the object, after the work that may use it."""

    def __init__(self, cuda: Cuda, nbytes: int) -> None:
        self.nbytes, self._cuda = nbytes, cuda
        self.address = cuda.allocate_raw(nbytes)
        self._free = weakref.finalize(self, free_after_work, cuda, self.address)
        self.clear()

    def clear(self) -> None:
        """Fill the block with zeros, in the stream's order."""
        with self._cuda.lock:
            self._cuda.use_device()
            self._cuda.call("cudaMemsetAsync", self.address, 0, max(1, self.nbytes), self._cuda.stream)

    def write(self, array: NDArray[Any]) -> None:
        """Copy a host array of exactly nbytes to the device; the array may change as soon as this returns."""
        self.write_at(0, array)

    def write_at(self, offset: int, array: NDArray[Any]) -> None:
        """Copy a host array to the bytes that begin at `offset`."""
        self._cuda.copy_in(self.address + offset, np.ascontiguousarray(array).reshape(-1).view(np.uint8))

    def read(self) -> NDArray[Any]:
        """Wait for what writes the block, and copy it to the host, uint8 [nbytes]."""
        return self._cuda.copy_out(self.address, self.nbytes)

    def free(self) -> None:
        """Free the block now; the second time does nothing."""
        self._free()


class Staging:
    """Pinned host memory that passes arrays to the stream: used from the front, from anew after each wait."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = weakref.proxy(cuda)
        self.blocks: list[int] = []  # at most one; a list, so that whoever ends the stream finds the last one
        self.capacity = self.used = 0

    def put(self, content: NDArray[np.uint8]) -> int:
        """Copy bytes into pinned memory; their address there, good until the stream has been waited for."""
        address = self.room(content.size)
        self.view(address, content.size)[:] = content
        return address

    def room(self, nbytes: int) -> int:
        """The address of free pinned bytes; waits for the stream where there are too few."""
        if self.used + nbytes > self.capacity:
            self._cuda.synchronize()
            if nbytes > self.capacity:
                self._grow(max(_STAGING_BYTES, 2 * nbytes))
        address = self.blocks[0] + self.used
        self.used += -(-nbytes // 256) * 256
        return address

    def view(self, address: int, nbytes: int) -> NDArray[np.uint8]:
        """Pinned bytes as an array."""
        return view_host(address, nbytes)

    def _grow(self, nbytes: int) -> None:
        if self.blocks:
            self._cuda.call("cudaFreeHost", self.blocks.pop())
        self.capacity = 0
        self.blocks.append(int(self._cuda.call("cudaHostAlloc", nbytes, 0)))
        self.capacity = nbytes


class Graph:
    """A recorded loop that can be run again with one call; destroyed with the object."""

    def __init__(self, cuda: Cuda, handle: Any) -> None:
        self._cuda, self._handle = cuda, handle
        self._end = weakref.finalize(self, _destroy_graph, cuda, handle)

    def launch(self) -> None:
        """Put the recorded work into the stream."""
        with self._cuda.lock:
            self._cuda.call("cudaGraphLaunch", self._handle, self._cuda.stream)


def free_after_work(cuda: Cuda, address: int) -> None:
    """Wait for the stream, in which the block may still be used, and free it; in a fork do nothing."""
    if not cuda.is_here:
        return
    with cuda.lock:
        if cuda.is_capturing:  # waiting would end the capture; this happens where Python frees what it finds unused
            cuda.to_free.append(address)
            return
        with _ignoring_the_end():
            cuda.use_device()
        end_after_work(cuda, lambda: cuda.call("cudaFree", address))


def device_target(device: int = 0) -> str:
    """The kind of a GPU of this machine, e.g. sm89. Raises EngineError where there is none."""
    api = _binding()
    names = api.cudaDeviceAttr
    wanted = (names.cudaDevAttrComputeCapabilityMajor, names.cudaDevAttrComputeCapabilityMinor)
    major, minor = (checked_call(api, "cudaDeviceGetAttribute", attribute, device) for attribute in wanted)
    return f"sm{major}{minor}"


def checked_call(api: Any, name: str, *args: Any) -> Any:
    """Call a function of cuda-python, which returns (status, result). Raises EngineError."""
    status, *results = getattr(api, name)(*args)
    check(api, name, status)
    return results[0] if results else None


def check(api: Any, name: str, status: Any) -> None:
    """Raises EngineError where a call did not succeed."""
    if int(status) != 0:
        reason = api.cudaGetErrorString(status)[1]
        text = reason.decode() if isinstance(reason, bytes) else str(reason)
        remedy = _TOO_OLD if int(status) == _INSUFFICIENT_DRIVER else ""
        raise EngineError(f"CUDA: {name} failed: {text}{remedy}")


def view_host(address: int, nbytes: int) -> NDArray[np.uint8]:
    """Host memory as an array of bytes."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))


def _binding() -> Any:
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError:
        raise EngineError("cuda-python is not installed; run `pip install cuda-python`") from None


def _end(api: Any, stream: int, own: bool, pinned: list[int], process: int) -> None:
    if os.getpid() != process:
        return

    def free() -> None:
        while pinned:
            checked_call(api, "cudaFreeHost", pinned.pop())
        if own:
            checked_call(api, "cudaStreamDestroy", stream)

    _wait_and_free(lambda: checked_call(api, "cudaStreamSynchronize", stream), free)


def end_after_work(cuda: Cuda, free: Callable[[], object]) -> None:
    """Wait for the stream, in which something may still be used, and free it."""
    _wait_and_free(cuda.synchronize if not cuda.is_closed else lambda: None, free)


def _wait_and_free(wait: Callable[[], object], free: Callable[[], object]) -> None:
    """Nothing is freed under work that may use it, and everything is, also where Ctrl-C comes meanwhile."""
    try:
        with _ignoring_the_end():
            wait()
    except KeyboardInterrupt:
        with _ignoring_the_end():
            wait()
        raise
    finally:
        with _ignoring_the_end():
            free()


def _destroy_graph(cuda: Cuda, handle: Any) -> None:
    if not cuda.is_here:
        return
    with cuda.lock:
        end_after_work(cuda, lambda: cuda.call("cudaGraphExecDestroy", handle))


@contextmanager
def _ignoring_the_end() -> Iterator[None]:
    """Freeing what a driver that failed or is gone has freed already is no news."""
    try:
        yield
    except (EngineError, ReferenceError):
        return
