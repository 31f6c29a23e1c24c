"""A backend that computes nothing and checks everything: liveness and dispatch bugs fail without an engine library.

Each engine stamps (step label, slot) into every cache slot it writes, and on every read demands the stamp of the
last engine that wrote that slot. Each step also demands the state of the step before it. A slot placed over a live
one, a stale offset or a step run out of order is an InternalError. Signals are scripted: after odd steps the first one
is 0, after even ones 1e30, and the others are 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InternalError
from ..policy import SIGNAL
from ..signature import ITEM_BYTES, STATE, STATE_OUT, Signature
from . import NO_TENSORS, DeviceOptions, Tensors, View
from .host import HostMemory

_ALIGNMENT_BYTES = 256  # of slots in the arena
_VALUES_OF_A_SLOT = 3
_STAMP_BYTES = 16
_REQUEST = "the request"
_LARGE = 1e30


class NullMemory(HostMemory):
    """Memory that knows who wrote into it last: a step, or the host."""

    last_writer = ""

    def write(self, array: NDArray[Any]) -> None:
        """Copy a host array of exactly nbytes into the block."""
        super().write(array)
        self.last_writer = _REQUEST


class NullBackend:
    """Keeps the truth (who wrote a slot last) outside the memory that is checked against it."""

    def __init__(self) -> None:
        self._writers: dict[tuple[int, str], list[str]] = {}  # of each slot's values, newest first

    def allocate(self, nbytes: int) -> NullMemory:
        return NullMemory(nbytes)

    def why_fixed_weights(self, folder: Path) -> str:
        return ""

    def open_engine(
        self, path: Path, signature: Signature, once: bool = False, weights: str = "", replaced: Tensors = NO_TENSORS
    ) -> NullEngine:
        if not path.is_file():
            raise InternalError(f"{path}: the engine to open does not exist")
        return NullEngine(self, signature)

    def check_order(self, label: str, state: View) -> None:
        """A step reads the state that the step before it wrote; the first one reads what the request began with."""
        number, memory = int(label.removeprefix("step ")), state.memory
        assert isinstance(memory, NullMemory)
        writer = memory.last_writer
        if writer not in (_REQUEST, f"step {number - 1}"):
            raise InternalError(f"{label}: the state was written by {writer}, not by step {number - 1}")

    def note_order(self, label: str, state: View) -> None:
        assert isinstance(state.memory, NullMemory)
        state.memory.last_writer = label

    def write_signals(self, label: str, before: View, after: View, signal: View) -> None:
        """Signals stand between the states before and after one step."""
        assert isinstance(before.memory, NullMemory)
        assert isinstance(after.memory, NullMemory)
        number = int(after.memory.last_writer.removeprefix("step "))
        if before.memory.last_writer not in (_REQUEST, f"step {number - 1}"):
            raise InternalError(f"{label}: the states were written by {before.memory.last_writer} and step {number}")
        values = np.ones(signal.shape, np.float32)
        values[:, 0] = 0.0 if number % 2 else _LARGE
        _bytes(signal)[:] = values.reshape(-1).view(np.uint8)

    def write_stamp(self, label: str, slot: str, view: View, update: bool) -> None:
        """Mark a slot's place. update: the latest value, renewed in part; otherwise the others grow one older."""
        writers = self._writers.setdefault((id(view.memory), slot), [])
        writers[:] = [label, *writers[update:]][:_VALUES_OF_A_SLOT]
        for place in _places(view):
            place[:] = _stamp(label, slot)[: place.shape[-1]]

    def check_stamp(self, label: str, slot: str, age: int, view: View) -> None:
        """The place holds the value of a slot that is `age` older than the latest."""
        writers = self._writers.get((id(view.memory), slot), [])
        if age >= len(writers):
            raise InternalError(f"{label}: reads slot {slot}, which nothing has written")
        writer = writers[age]
        stamp = _stamp(writer, slot)
        if not all((place == stamp[: place.shape[-1]]).all() for place in _places(view)):
            raise InternalError(f"{label}: slot {slot} does not hold what {writer} wrote")


class NullEngine:
    """Checks reads, stamps writes, passes the state on."""

    def __init__(self, backend: NullBackend, signature: Signature) -> None:
        self._backend, self._signature = backend, signature

    def bind(
        self, label: str, inputs: Mapping[str, View], outputs: Mapping[str, View]
    ) -> Callable[[], None]:
        if inputs.keys() != self._signature.inputs.keys() or outputs.keys() != self._signature.outputs.keys():
            raise InternalError(f"{label}: bound names differ from the program's signature")
        reads = {slot_and_age: inputs[name] for name, slot_and_age in self._signature.reads.items()}
        writes = {n.removeprefix("cache_out."): view for n, view in outputs.items() if n.startswith("cache_out.")}

        def call() -> None:
            for (slot, age), view in reads.items():
                self._backend.check_stamp(label, slot, age, view)
            if STATE_OUT in inputs:
                self._backend.write_signals(label, inputs[STATE], inputs[STATE_OUT], outputs[SIGNAL])
                return
            if STATE in inputs:
                self._backend.check_order(label, inputs[STATE])
            for slot, view in writes.items():
                self._backend.write_stamp(label, slot, view, update=(slot, 0) in reads)
            if STATE in inputs:
                _bytes(outputs[STATE_OUT])[:] = _bytes(inputs[STATE])
                self._backend.note_order(label, outputs[STATE_OUT])

        return call


def open_backend(device: str, threads: int, weights: str, options: DeviceOptions) -> NullBackend:
    """The checking backend; the arguments are accepted and unused."""
    return NullBackend()


def _bytes(view: View) -> Any:
    memory: Any = view.memory  # host memory, with its bytes
    size = int(np.prod(view.shape)) * ITEM_BYTES[view.dtype]
    if not 0 <= view.offset <= memory.nbytes - size:
        raise InternalError(f"a view of {size} bytes at {view.offset} leaves its memory of {memory.nbytes} bytes")
    return memory.bytes[view.offset : view.offset + size]


def _places(view: View) -> tuple[Any, Any]:
    """Where a slot's stamps go, so that slots that overlap at all share one: the first bytes of each whole block of
    the arena's alignment, [blocks, STAMP_BYTES], and those of the rest, [up to STAMP_BYTES]."""
    content = _bytes(view)
    whole = content.size // _ALIGNMENT_BYTES * _ALIGNMENT_BYTES
    return content[:whole].reshape(-1, _ALIGNMENT_BYTES)[:, :_STAMP_BYTES], content[whole:][:_STAMP_BYTES]


def _stamp(label: str, slot: str) -> Any:
    digest = hashlib.blake2b(f"{label}|{slot}".encode(), digest_size=_STAMP_BYTES).digest()
    return np.frombuffer(digest, np.uint8)
