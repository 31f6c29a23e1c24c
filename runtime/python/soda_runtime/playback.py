"""Bind one bundle for one batch size: every buffer allocated, every step's addresses fixed, ready to be called."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .backends import DeviceBackend, Memory, View
from .guard import OpenedHere
from .loading import Call, StepCalls
from .manifest import AudioFinish, ImageFinish, PreparedTensor, PrepareProgram, VideoFinish
from .opened import OpenedBundle
from .signature import (
    BATCH_AXIS,
    COEFFICIENTS,
    GUIDANCE,
    ITEM_BYTES,
    LATENTS,
    NOISE,
    ROWS_AXIS,
    STATE,
    STATE_OUT,
    WINDOW_AXIS,
    Port,
    cache_in,
    cache_out,
    coefficient_table,
    encoders,
    finish_signature,
    request_ports,
    step_signature,
    tensor_port,
)  # fmt: skip
from .starts import cached_steps, start_rows
from .video import VideoMaker

MAX_WINDOW_BYTES = 64 << 20  # tensors of single steps are made in windows of steps that fit this
_HOST_NOISE_BYTES = 64 << 10
_GIVEN = 2  # the finish program's call for latents that are given; 0 and 1 are those of the two states

Play = Literal["frozen", "full", "adaptive"]
"""What a request's steps follow: the schedule; nothing, so that everything is computed; the policy, as they go."""


class Playback(OpenedHere):
    """The buffers and bound calls of one (bundle, batch, play, start). Used by one thread at a time.

    first: the step that runs first. cached: steps that run the schedule's programs; the others compute everything.
    needs_more: steps before which prepared tensors or noise are made. ready_until: the next of them, after each step.
    """

    def __init__(self, bundle: OpenedBundle, batch: int, play: Play, start: int | None = None) -> None:
        """start: the step at which a run from given latents starts; None where it begins with noise."""
        super().__init__()
        self.batch, self.play, self._bundle = batch, play, bundle
        self._replaced = bundle.replaced  # of all of its engines, whatever strengths LoRA gets meanwhile
        self.start, self.first = start, start or 0
        self.cached = frozenset(range(bundle.manifest.sampler.steps)) if play == "frozen" else frozenset[int]()
        if play == "frozen" and start is not None:
            self.cached = cached_steps(bundle.manifest, start)
        self._memories: list[Memory] = []
        self._loading: StepCalls | None = None
        self._video: VideoMaker | None = None
        try:
            self._bind()
        except BaseException:
            self.close()
            raise

    def _bind(self) -> None:
        batch, bundle, manifest = self.batch, self._bundle, self._bundle.manifest
        self._axes = {BATCH_AXIS: batch, ROWS_AXIS: batch * manifest.rows_per_sample}
        self.window = self._window_steps()
        allocate = self._allocate_bytes
        state_bytes = 4 * manifest.sampler.state_size * batch * math.prod(manifest.model.latent_shape)
        # the first engine is opened, and so checked against the manifest, before the manifest's sizes are allocated
        programs = [
            step.program if index in self.cached else manifest.baseline_program
            for index, step in enumerate(manifest.steps)
        ]
        bundle.engine(programs[self.first], self._replaced)
        for each in manifest.prepare:
            if each not in encoders(manifest):
                bundle.prepare_engine(each, self._replaced)
        self.arena = allocate(max(1, manifest.arena.bytes * batch if self.cached else 0))
        self._states = (allocate(state_bytes), allocate(state_bytes))
        self.guidance = allocate(4)
        noise_bytes = state_bytes // manifest.sampler.state_size
        self.noise_steps = self._noise_steps(noise_bytes)
        self.noise = allocate(noise_bytes * self.noise_steps)
        self.request = {name: self._allocate(port) for name, port in request_ports(manifest).items()}
        self._coefficients = _upload(allocate, self._padded(self._rows()))
        tables = [name for program in manifest.prepare for name in program.tables]
        self._tables = {name: _upload(allocate, bundle.tables[name]) for name in tables}
        self._tensors = {tensor.name: self._allocate_tensor(tensor) for tensor in manifest.tensors}
        self.encode, self.prepare_request, self.prepares = self._bind_prepares()
        at_once = isinstance(bundle.backend, DeviceBackend)  # its loop is made of bound steps
        self._loading = StepCalls(programs, lambda step: self._bind_step(step, programs[step]), at_once, self.first)
        self.steps = self._loading.calls
        self._finish: dict[int, tuple[Call, Memory]] = {}
        self._given: Memory | None = None
        self.loop = self._make_loop()
        made_at = [self.window] + [self.noise_steps] * manifest.sampler.stochastic
        made = [
            step for step in range(len(programs)) if step == self.first or any(step % each == 0 for each in made_at)
        ]
        self.needs_more = frozenset(made)
        self.ready_until = [end for begin, end in pairwise((0, *made, len(programs))) for _ in range(begin, end)]

    @property
    def calls(self) -> Sequence[Call]:
        """What runs each step."""
        return self.steps

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return self._bundle.manifest.model.latent_shape

    @property
    def initial_state(self) -> Memory:
        """Where the state goes before the first step."""
        return self.state_after(self.first)

    def state_after(self, steps_done: int) -> Memory:
        """Where the state is after that many steps."""
        return self._states[steps_done % 2]

    def wait(self) -> None:
        """Until every step's engine is open and bound. Raises EngineError."""
        if self._loading is not None:
            self._loading.wait()

    def close(self) -> None:
        """Let go of every bound call and buffer: freed now where the backend can, else with the last reference."""
        if self._loading is not None:
            self._loading.close()
            self._loading = None
        self.encode, self.prepare_request, self.prepares, self.steps = {}, [], [], []
        self._finish, self._video, self._given, self.loop = {}, None, None, None
        while self._memories:
            self._memories.pop().free()

    def memories(self) -> list[Memory]:
        """Every block of memory that could carry a value from one request to the next."""
        return [
            self.arena, *self._states, self.guidance, self.noise, *self.request.values(), *self._tensors.values(),
            *(memory for _, memory in self._finish.values()), *(self._video.memories() if self._video else []),
            *([self._given] if self._given else []),
        ]  # fmt: skip

    def finish(
        self, program: ImageFinish | AudioFinish, steps_done: int, given: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Run an image's or sound's finish program: [B, *shape of its output]. It takes the latents after that many
        steps, or those that are given."""
        which = steps_done % 2
        if given is not None:
            which = _GIVEN
            self._given = self._given or self._allocate_bytes(given.nbytes)
            self._given.write(given)
        if which not in self._finish:
            signature = finish_signature(self._bundle.manifest, program)
            engine = self._bundle.finish_engine(program)
            memory = self._allocate(signature.outputs[program.kind])
            latents = self._given if which == _GIVEN and self._given else self.state_after(steps_done)
            call = engine.bind(
                "finish",
                {LATENTS: view_of(latents, signature.inputs[LATENTS], self._axes)},
                {program.kind: view_of(memory, signature.outputs[program.kind], self._axes)},
            )
            self._finish[which] = (call, memory)
        call, memory = self._finish[which]
        call()
        made: NDArray[np.float32] = memory.read().view(np.float32).reshape(self.batch, *program.shape)
        return made

    def video(self, program: VideoFinish) -> VideoMaker:
        """What makes the video; bound at first use."""
        if self._video is None:
            self._video = VideoMaker(self._bundle, program, self.batch, self._allocate_bytes)
        return self._video

    def prepares_before(self, step: int) -> list[Call]:
        """What makes the tensors of a window of steps, where `step` is the first of it that runs."""
        begins = step == self.first or step % self.window == 0
        return self.prepares[step // self.window] if begins else []

    def row_of(self, index: int) -> NDArray[np.float32]:
        """What step `index` took as `coefficients`; it was the latest one."""
        row: NDArray[np.float32] = self._rows()[index]
        return row

    def noise_of(self, index: int) -> NDArray[np.float32]:
        """The noise of step `index`, the latest one: [B, *latent_shape]."""
        noise = self.noise.read().view(np.float32).reshape(self.noise_steps, self.batch, *self.latent_shape)
        of_step: NDArray[np.float32] = noise[index % self.noise_steps]
        return of_step

    def _rows(self) -> NDArray[Any]:
        """What each step takes as `coefficients`: [S, columns]."""
        bundle = self._bundle
        if self.start is not None:
            return start_rows(bundle.manifest, bundle.tables, self.start)
        table: NDArray[Any] = bundle.tables[coefficient_table(bundle.manifest, self.play == "frozen")]
        return table

    def _row_offset(self, index: int) -> int:
        """Where the row of a step begins, in bytes."""
        return index * (self._coefficients.nbytes // self._bundle.manifest.sampler.steps)

    def _allocate(self, port: Port) -> Memory:
        return self._allocate_bytes(self._bytes(port))

    def _allocate_bytes(self, nbytes: int) -> Memory:
        memory = self._bundle.backend.allocate(nbytes)
        self._memories.append(memory)
        return memory

    def _bytes(self, port: Port) -> int:
        return ITEM_BYTES[port.dtype] * math.prod(port.at(self._axes))

    def _allocate_tensor(self, tensor: PreparedTensor) -> Memory:
        return self._allocate_bytes(self._bytes(tensor_port(tensor)) * (self.window if tensor.per_step else 1))

    def _window_steps(self) -> int:
        manifest = self._bundle.manifest
        per_step = sum(self._bytes(tensor_port(tensor)) for tensor in manifest.tensors if tensor.per_step)
        return max(1, min(manifest.sampler.steps, MAX_WINDOW_BYTES // max(1, per_step)))

    def _noise_steps(self, bytes_a_step: int) -> int:
        """Steps whose noise is in memory at once: as many as the device takes ahead, on the host as many as are drawn
        in hardly more time than one."""
        backend, sampler = self._bundle.backend, self._bundle.manifest.sampler
        ahead = backend.noise_bytes if isinstance(backend, DeviceBackend) else _HOST_NOISE_BYTES
        return max(1, min(sampler.steps if sampler.stochastic else 1, ahead // bytes_a_step))

    def _padded(self, table: NDArray[Any]) -> NDArray[Any]:
        """A table whose rows are taken one by one, each at an address that the device's engines take."""
        backend = self._bundle.backend
        if not isinstance(backend, DeviceBackend):
            return table
        room = -table.shape[-1] * table.itemsize % backend.row_bytes // table.itemsize
        return np.pad(table, ((0, 0),) * (table.ndim - 1) + ((0, room),))

    def _make_loop(self) -> Call | None:
        """All steps and what prepares them as one call, where the backend has that and all noise is there ahead."""
        backend, sampler = self._bundle.backend, self._bundle.manifest.sampler
        if not isinstance(backend, DeviceBackend) or (sampler.stochastic and self.noise_steps < sampler.steps):
            return None
        calls: list[Call] = []
        for index in range(self.first, sampler.steps):
            calls += [*self.prepares_before(index), self.steps[index]]
        return backend.loop(calls)

    def _bind_prepares(self) -> tuple[dict[str, Call], list[Call], list[list[Call]]]:
        """Each encoder's call by its file; the other calls of a request; the calls of each window of steps."""
        encode: dict[str, Call] = {}
        once: list[Call] = []
        windows: list[list[Call]] = [[] for _ in range(0, self._bundle.manifest.sampler.steps, self.window)]
        for program in self._bundle.manifest.prepare:
            if program.tables:
                for number, calls in enumerate(windows):
                    calls.append(self._bind_prepare(program, number * self.window))
            elif program in encoders(self._bundle.manifest):
                encode[program.file] = self._bind_later(program)
            else:
                once.append(self._bind_prepare(program, 0))
        return encode, once, windows

    def _bind_later(self, program: PrepareProgram) -> Call:
        """Open and bind a program at its first call: requests that give embeddings need no text encoder in memory."""
        bound: list[Call] = []

        def call() -> None:
            if not bound:
                bound.append(self._bind_prepare(program, 0))
            bound[0]()

        return call

    def _bind_prepare(self, program: PrepareProgram, first: int) -> Call:
        """Bind a prepare program, for the window of steps that begins at `first` where it has tables."""
        bundle, manifest = self._bundle, self._bundle.manifest
        signature = bundle.prepare_signature(program)
        axes = self._axes | {WINDOW_AXIS: min(self.window, manifest.sampler.steps - first)}
        places = self._tensors | self.request
        inputs = {
            name: view_of(self._tables[name], port, axes, row=first) if name in program.tables
            else view_of(places[name], port, axes)
            for name, port in signature.inputs.items()
        }  # fmt: skip
        outputs = {name: view_of(places[name], port, axes) for name, port in signature.outputs.items()}
        steps = f" of steps {first}..{first + axes[WINDOW_AXIS] - 1}" if program.tables else ""
        return bundle.prepare_engine(program, self._replaced).bind(f"prepare{steps}", inputs, outputs)

    def _bind_step(self, index: int, program: int) -> Call:
        manifest = self._bundle.manifest
        signature = step_signature(manifest, program)
        places: dict[str, tuple[Memory, int]] = {
            STATE: (self._states[index % 2], 0),
            STATE_OUT: (self._states[(index + 1) % 2], 0),
            GUIDANCE: (self.guidance, 0),
            NOISE: (self.noise, index % self.noise_steps * (self.noise.nbytes // self.noise_steps)),
        }
        if index in self.cached:
            step, used = manifest.steps[index], manifest.programs[program]
            for slot, offset in zip(used.reads, step.read_offsets, strict=True):
                places[cache_in(slot, manifest.version)] = (self.arena, offset * self.batch)
            for slot, offset in zip(used.writes, step.write_offsets, strict=True):
                places[cache_out(slot)] = (self.arena, offset * self.batch)
        places[COEFFICIENTS] = (self._coefficients, self._row_offset(index))
        rows: dict[str, tuple[Memory, int]] = {name: (memory, 0) for name, memory in self.request.items()}
        for tensor in manifest.tensors:
            rows[tensor.name] = (self._tensors[tensor.name], index % self.window if tensor.per_step else 0)

        def view(name: str, port: Port) -> View:
            if name in rows:
                return view_of(rows[name][0], port, self._axes, row=rows[name][1])
            memory, offset = places[name]
            return View(memory, offset, port.dtype, port.at(self._axes))

        return self._bundle.engine(program, self._replaced).bind(
            f"step {index}",
            {name: view(name, port) for name, port in signature.inputs.items()},
            {name: view(name, port) for name, port in signature.outputs.items()},
        )


def view_of(memory: Memory, port: Port, axes: Mapping[str, int], row: int = 0) -> View:
    """Rows `row`.. of a table in memory. A port without a window axis is one row of it."""
    shape = port.at(axes)
    row_shape = shape[1:] if port.shape[0] == WINDOW_AXIS else shape
    row_bytes = math.prod(row_shape) * ITEM_BYTES[port.dtype]
    return View(memory, row * row_bytes, port.dtype, shape)


def _upload(allocate: Callable[[int], Memory], table: NDArray[Any]) -> Memory:
    memory = allocate(table.nbytes)
    memory.write(table)
    return memory
