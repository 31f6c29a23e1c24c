"""One engine bound for one step: an execution context, its addresses, and the copies that its places need."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import EngineError
from ..signature import ITEM_BYTES
from . import Memory, View
from .cuda import Cuda

_ALIGNMENT = 256  # of addresses that engines get


class BoundEngine:
    """Called without arguments. Shared blocks tell it where they are, at first and when they have moved."""

    def __init__(self, cuda: Cuda, context: Any, where: str, messages: Sequence[str]) -> None:
        self._cuda, self._context, self._where, self._messages = cuda, context, where, messages
        self._memories: tuple[Memory, ...] = ()
        self._before: list[tuple[str, int, int, int]] = []  # name, its own address, place in the scratch, bytes
        self._after: list[tuple[str, int, int, int]] = []
        self._copies_in: list[tuple[int, int, int]] = []  # target, source, bytes
        self._copies_out: list[tuple[int, int, int]] = []
        self.scratch_bytes = 0

    def place(self, inputs: Mapping[str, View], outputs: Mapping[str, View]) -> None:
        """Set every address that the library takes as it is, and reserve scratch for the others."""
        self._memories = tuple(view.memory for view in (*inputs.values(), *outputs.values()))
        taken = set()
        for name, view in inputs.items():
            address = _address(view)
            taken.add(address)
            if address % _ALIGNMENT:
                self._before.append((name, address, self._reserve(view), _size(view)))
            else:
                self.fix(name, address)
        for name, view in outputs.items():
            address = _address(view)
            if address % _ALIGNMENT or address in taken:
                self._after.append((name, address, self._reserve(view), _size(view)))
            else:
                self.fix(name, address)

    def fix(self, name: str, address: int) -> None:
        """Tell the library where a tensor lies."""
        if not self._context.set_tensor_address(name, address):
            raise EngineError(f"{self._where}: the library refuses the address of {name!r}: {self._said()}")

    def take_scratch(self, address: int, nbytes: int) -> None:
        """The scratch block is there now."""
        for name, _, place, _ in (*self._before, *self._after):
            self.fix(name, address + place)
        self._copies_in = [(address + place, own, size) for _, own, place, size in self._before]
        self._copies_out = [(own, address + place, size) for _, own, place, size in self._after]

    def take_activations(self, address: int, nbytes: int) -> None:
        """The block of activations is there now: the call of TensorRT 10.1 and later, or the one before."""
        if hasattr(self._context, "set_device_memory"):
            self._context.set_device_memory(address, nbytes)
        else:
            self._context.device_memory = address

    def __call__(self) -> None:
        """Put the engine's work into the stream."""
        cuda = self._cuda
        with cuda.lock:
            cuda.use_device()
            for target, source, size in self._copies_in:
                cuda.copy_on_device(target, source, size)
            if not self._context.execute_async_v3(cuda.stream):
                raise EngineError(f"{self._where}: the engine failed: {self._said()}")
            for target, source, size in self._copies_out:
                cuda.copy_on_device(target, source, size)

    def _reserve(self, view: View) -> int:
        begin = self.scratch_bytes
        self.scratch_bytes += -(-_size(view) // _ALIGNMENT) * _ALIGNMENT
        return begin

    def _said(self) -> str:
        return " ".join(" | ".join(self._messages).split())[:400] or "no reason given"


def _address(view: View) -> int:
    return view.memory.address + view.offset


def _size(view: View) -> int:
    return ITEM_BYTES[view.dtype] * math.prod(view.shape)
