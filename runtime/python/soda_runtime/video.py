"""Make a video of latents call by call: each takes some frames of them and what the call before hands on."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .backends import Memory, View
from .chunks import chunks_of
from .loading import Call
from .manifest import VideoFinish
from .opened import OpenedBundle
from .signature import BATCH_AXIS, ITEM_BYTES, LATENTS, Port, carry_in, carry_out, finish_signature


class VideoMaker:
    """The finish programs of one (bundle, batch), bound. Used by one thread at a time: `begin`, then each chunk in
    order.

    Latents pass through the host, a chunk at a time. What calls carry stays where the engines run, in two buffers in
    turn.
    """

    def __init__(
        self, bundle: OpenedBundle, program: VideoFinish, batch: int, allocate: Callable[[int], Memory]
    ) -> None:
        """allocate(nbytes): memory of the bundle's backend, the caller's to free."""
        self.chunks = chunks_of(bundle.manifest)
        self._batch, self._axes = batch, {BATCH_AXIS: batch}
        # both engines are opened, and so checked against the manifest, before the manifest's sizes are allocated
        kinds = [False, *([True] if program.first else [])]
        self._engines = {first: bundle.finish_engine(program, first) for first in kinds}
        self._signatures = {first: finish_signature(bundle.manifest, program, first) for first in kinds}
        self._carry = [carry.name for carry in program.carry]
        self._kind = program.kind

        def place(port: Port) -> Memory:
            return allocate(ITEM_BYTES[port.dtype] * math.prod(port.at(self._axes)))

        inputs = self._signatures[False].inputs
        self._carried = tuple({name: place(inputs[carry_in(name)]) for name in self._carry} for _ in range(2))
        self._taken = {first: place(each.inputs[LATENTS]) for first, each in self._signatures.items()}
        self._made = {first: place(each.outputs[self._kind]) for first, each in self._signatures.items()}
        self._calls: dict[tuple[bool, int], Call] = {}
        self._latents = np.zeros((0, 0, 0), np.float32)

    def begin(self, latents: NDArray[np.float32]) -> None:
        """latents: [B, *latent_shape], kept until the next video begins."""
        self._latents = latents
        for memory in self._carried[0].values():
            memory.clear()

    def make(self, index: int) -> NDArray[np.float32]:
        """Chunk `index` of the video, [B, frames, channels, height, width]; those before it have been made."""
        chunk = self.chunks[index]
        self._taken[chunk.first].write(np.ascontiguousarray(self._latents[:, :, chunk.latent_frames]))
        self._call(chunk.first, index % 2 if self._carry else 0)()
        shape = self._signatures[chunk.first].outputs[self._kind].at(self._axes)
        made: NDArray[np.float32] = self._made[chunk.first].read().view(np.float32).reshape(shape)
        return made

    def memories(self) -> list[Memory]:
        """Every block of memory that could carry a value from one video to the next."""
        carried = [memory for memories in self._carried for memory in memories.values()]
        return [*self._taken.values(), *self._made.values(), *carried]

    def _call(self, first: bool, turn: int) -> Call:
        """Of a program; turn: which of the two buffers it takes what is carried from."""
        if (first, turn) not in self._calls:
            signature = self._signatures[first]
            takes, gives = self._carried[turn], self._carried[1 - turn]
            inputs = {carry_in(name): takes[name] for name in self._carry} | {LATENTS: self._taken[first]}
            outputs = {carry_out(name): gives[name] for name in self._carry} | {self._kind: self._made[first]}
            self._calls[first, turn] = self._engines[first].bind(
                "finish", self._views(signature.inputs, inputs), self._views(signature.outputs, outputs)
            )
        return self._calls[first, turn]

    def _views(self, ports: dict[str, Port], places: dict[str, Memory]) -> dict[str, View]:
        return {name: View(places[name], 0, port.dtype, port.at(self._axes)) for name, port in ports.items()}
