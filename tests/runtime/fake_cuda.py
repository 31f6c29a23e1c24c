"""A stand-in for cuda-python's binding of the CUDA runtime: it records every call, and checks what CUDA would not say.

Device and pinned memory are host memory. What goes into a stream runs when the stream is waited for and not before, so
that pinned memory that is used again too early, or a block that is freed under pending work, shows as a wrong result
or as an AssertionError. Nothing is known here of a real driver's timing.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

OK, OUT_OF_MEMORY, CAPTURE_REFUSED = 0, 2, 900
WAITS = {"cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaFree", "cudaFreeHost", "cudaMemcpy"}
ALLOCATES = {"cudaMalloc", "cudaHostAlloc"}


class Kind(enum.IntEnum):
    """cudaMemcpyKind."""

    cudaMemcpyHostToDevice = 1  # noqa: N815
    cudaMemcpyDeviceToHost = 2  # noqa: N815
    cudaMemcpyDeviceToDevice = 3  # noqa: N815


class Block:
    """Live memory; written: which bytes something has been put into, zeroing not counted."""

    def __init__(self, nbytes: int) -> None:
        self._room = np.full(nbytes + 512, 0xCD, np.uint8)
        begin = -self._room.ctypes.data % 256
        self.bytes: NDArray[np.uint8] = self._room[begin : begin + nbytes]
        self.address = int(self.bytes.ctypes.data)
        self.written, self.zeroed = np.zeros(nbytes, bool), np.zeros(nbytes, bool)


class FakeCuda(ModuleType):
    """The functions that soda_runtime.backends.cuda calls, each giving (status, result)."""

    cudaMemcpyKind = Kind  # noqa: N815
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)  # noqa: N815
    cudaDeviceAttr = SimpleNamespace(  # noqa: N815
        cudaDevAttrComputeCapabilityMajor="major", cudaDevAttrComputeCapabilityMinor="minor"
    )

    def __init__(self, capability: tuple[int, int] = (8, 9)) -> None:
        super().__init__("cuda.bindings.runtime")
        self.capability = capability
        self.log: list[str] = []
        self.device: dict[int, Block] = {}
        self.pinned: dict[int, Block] = {}
        self.freed: list[int] = []
        self.pending: list[Callable[[], None]] = []
        self.recorded: list[Callable[[], None]] | None = None
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.streams: set[int] = set()
        self.refuse_capture = self.zeros_will_do = False
        self.device_bytes = 1 << 33
        self.current_device = 0
        self.interrupt_after: dict[str, int] = {}  # function -> calls until it raises KeyboardInterrupt
        self._handles = iter(range(1000, 1 << 30))

    def enqueue(self, what: str, work: Callable[[], None]) -> None:
        """Put work into the stream, or into the graph that is being recorded."""
        self._note(what)
        (self.pending if self.recorded is None else self.recorded).append(work)

    def find(self, address: int, nbytes: int) -> tuple[Block, slice]:
        """The live device block that has all of these bytes."""
        for block in self.device.values():
            begin = address - block.address
            if begin >= 0 and begin + nbytes <= block.bytes.size:
                return block, slice(begin, begin + nbytes)
        raise AssertionError(f"{nbytes} bytes at {address:#x} are in no live block")

    def check_written(self, what: str, address: int, nbytes: int) -> None:
        """Somebody has put something there."""
        block, part = self.find(address, nbytes)
        known = block.written | block.zeroed if self.zeros_will_do else block.written
        assert known[part].all(), f"{what} is read before it is written"

    def note_written(self, address: int, nbytes: int) -> None:
        block, part = self.find(address, nbytes)
        block.written[part] = True

    def cudaSetDevice(self, device: int) -> tuple[int]:  # noqa: N802
        self.current_device = device
        return self._note("cudaSetDevice")

    def cudaGetErrorString(self, status: int) -> tuple[int, bytes]:  # noqa: N802
        return OK, {OUT_OF_MEMORY: b"out of memory", CAPTURE_REFUSED: b"operation not permitted"}[status]

    def cudaDeviceGetAttribute(self, attribute: str, device: int) -> tuple[int, int]:  # noqa: N802
        return OK, self.capability[attribute == "minor"]

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, int]:  # noqa: N802
        self._note("cudaStreamCreateWithFlags")
        stream = next(self._handles)
        self.streams.add(stream)
        return OK, stream

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:  # noqa: N802
        assert not self.pending, "a stream with work in it is destroyed"
        self.streams.remove(stream)
        return self._note("cudaStreamDestroy")

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:  # noqa: N802
        assert self.recorded is None, "a wait while the loop is recorded"
        self._note("cudaStreamSynchronize")
        work, self.pending = self.pending, []
        for each in work:
            each()
        return (OK,)

    def cudaMalloc(self, nbytes: int) -> tuple[int, int]:  # noqa: N802
        assert self.current_device == 0, "memory of another device"
        self._note("cudaMalloc")
        if sum(block.bytes.size for block in self.device.values()) + nbytes > self.device_bytes:
            return OUT_OF_MEMORY, 0
        block = Block(nbytes)
        self.device[block.address] = block
        return OK, block.address

    def cudaFree(self, address: int) -> tuple[int]:  # noqa: N802
        assert not self.pending, "device memory is freed under work that may use it"
        assert address in self.device, "freed twice, or never allocated"
        self.freed.append(address)
        del self.device[address]
        return self._note("cudaFree")

    def cudaMemGetInfo(self) -> tuple[int, int, int]:  # noqa: N802
        return OK, self.device_bytes - sum(block.bytes.size for block in self.device.values()), self.device_bytes

    def cudaHostAlloc(self, nbytes: int, flags: int) -> tuple[int, int]:  # noqa: N802
        self._note("cudaHostAlloc")
        block = Block(nbytes)
        self.pinned[block.address] = block
        return OK, block.address

    def cudaFreeHost(self, address: int) -> tuple[int]:  # noqa: N802
        assert not self.pending, "pinned memory is freed under a copy"
        del self.pinned[address]
        return self._note("cudaFreeHost")

    def cudaMemsetAsync(self, address: int, value: int, nbytes: int, stream: int) -> tuple[int]:  # noqa: N802
        block, part = self.find(address, nbytes)

        def fill() -> None:
            block.bytes[part], block.zeroed[part] = value, True

        self.enqueue("cudaMemsetAsync", fill)
        return (OK,)

    def cudaMemcpyAsync(self, target: int, source: int, nbytes: int, kind: Kind, stream: int) -> tuple[int]:  # noqa: N802
        into = self._host(target, nbytes) if kind == Kind.cudaMemcpyDeviceToHost else self._device(target, nbytes)
        out_of = self._host(source, nbytes) if kind == Kind.cudaMemcpyHostToDevice else self._device(source, nbytes)

        def copy() -> None:
            if kind != Kind.cudaMemcpyHostToDevice:
                self.check_written("the source of a copy", source, nbytes)
            into[:] = out_of
            if kind != Kind.cudaMemcpyDeviceToHost:
                self.note_written(target, nbytes)

        self.enqueue(f"cudaMemcpyAsync {kind.name}", copy)
        return (OK,)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[int]:  # noqa: N802
        self._note("cudaStreamBeginCapture")
        if self.refuse_capture:
            return (CAPTURE_REFUSED,)
        assert self.recorded is None
        self.recorded = []
        return (OK,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[int, int]:  # noqa: N802
        self._note("cudaStreamEndCapture")
        if self.recorded is None:
            return CAPTURE_REFUSED, 0
        graph, self.recorded = self.recorded, None
        return OK, self._keep(graph)

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[int, int]:  # noqa: N802
        self._note("cudaGraphInstantiate")
        return OK, self._keep(self.graphs[graph])

    def cudaGraphDestroy(self, graph: int) -> tuple[int]:  # noqa: N802
        del self.graphs[graph]
        return self._note("cudaGraphDestroy")

    def cudaGraphExecDestroy(self, graph: int) -> tuple[int]:  # noqa: N802
        del self.graphs[graph]
        return self._note("cudaGraphExecDestroy")

    def cudaGraphLaunch(self, graph: int, stream: int) -> tuple[int]:  # noqa: N802
        self._note("cudaGraphLaunch")
        self.pending += self.graphs[graph]
        return (OK,)

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[int, int]:  # noqa: N802
        return OK, next(self._handles)

    def cudaEventRecord(self, event: int, stream: int) -> tuple[int]:  # noqa: N802
        return self._note(f"cudaEventRecord {stream}")

    def cudaStreamWaitEvent(self, stream: int, event: int, flags: int) -> tuple[int]:  # noqa: N802
        return self._note(f"cudaStreamWaitEvent {stream}")

    def cudaEventDestroy(self, event: int) -> tuple[int]:  # noqa: N802
        return (OK,)

    def _note(self, what: str) -> tuple[int]:
        self.log.append(what)
        if what in self.interrupt_after:
            self.interrupt_after[what] -= 1
            if self.interrupt_after[what] < 0:
                del self.interrupt_after[what]
                raise KeyboardInterrupt
        return (OK,)

    def _keep(self, graph: list[Callable[[], None]]) -> int:
        handle = next(self._handles)
        self.graphs[handle] = graph
        return handle

    def _device(self, address: int, nbytes: int) -> NDArray[np.uint8]:
        block, part = self.find(address, nbytes)
        return block.bytes[part]

    def _host(self, address: int, nbytes: int) -> NDArray[np.uint8]:
        for block in self.pinned.values():
            begin = address - block.address
            if begin >= 0 and begin + nbytes <= block.bytes.size:
                return block.bytes[begin : begin + nbytes]
        raise AssertionError("a copy to or from memory of the host that is not pinned")


def install_cuda(patch: pytest.MonkeyPatch, fake: FakeCuda) -> FakeCuda:
    """Let soda_runtime find the stand-in where it looks for cuda-python."""
    package: Any = ModuleType("cuda")
    bindings: Any = ModuleType("cuda.bindings")
    package.bindings, bindings.runtime = bindings, fake
    for name, module in (("cuda", package), ("cuda.bindings", bindings), ("cuda.bindings.runtime", fake)):
        patch.setitem(sys.modules, name, module)
    return fake
