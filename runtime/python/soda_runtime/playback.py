"""Bind one bundle for one batch size: every buffer allocated, every step's addresses fixed, ready to be called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .backends import Memory, View
from .signature import (
    BATCH_AXIS,
    COEFFICIENTS,
    GUIDANCE,
    LABELS,
    NOISE,
    ROWS_AXIS,
    STATE,
    STATE_OUT,
    WINDOW_AXIS,
    Port,
    cache_in,
    cache_out,
    step_signature,
)  # fmt: skip

if TYPE_CHECKING:
    from .bundle import Bundle

MAX_CONDITIONING_BYTES = 128 << 20  # conditioning tables are filled in windows of steps that fit this


class Playback:
    """The buffers and bound calls of one (bundle, batch, accelerated or baseline). Used by one thread at a time."""

    def __init__(self, bundle: Bundle, batch: int, accelerated: bool) -> None:
        self.batch, self.accelerated = batch, accelerated
        self._bundle, manifest = bundle, bundle.manifest
        self._axes = {BATCH_AXIS: batch, ROWS_AXIS: batch * manifest.rows_per_sample}
        self.window = self._window_steps()
        allocate = bundle.backend.allocate
        state_bytes = 4 * manifest.sampler.state_size * batch * int(np.prod(manifest.model.latent_shape))
        # engines are opened, and so checked against the manifest, before the manifest's sizes are allocated
        programs = [step.program if accelerated else manifest.baseline_program for step in manifest.steps]
        engines = {program: bundle.engine(program) for program in sorted(set(programs))}
        bundle.prepare_engine()
        self.arena = allocate(max(1, manifest.arena.bytes * batch if accelerated else 0))
        self._states = (allocate(state_bytes), allocate(state_bytes))
        self.labels = allocate(8 * self._axes[ROWS_AXIS])
        self.guidance = allocate(4)
        self.noise = allocate(state_bytes // manifest.sampler.state_size)
        self._tables = {name: _upload(allocate, table) for name, table in bundle.tables.items()}
        self._conditioning = {
            entry.name: allocate(self.window * self._axes[ROWS_AXIS] * 4 * entry.entries * entry.width)
            for entry in manifest.prepare.conditioning
        }
        self.prepares = self._bind_prepares()
        self.steps = [self._bind_step(i, program, engines[program]) for i, program in enumerate(programs)]

    @property
    def initial_state(self) -> Memory:
        """Where the state goes before step 0."""
        return self._states[0]

    def state_after(self, steps_done: int) -> Memory:
        """Where the state is after that many steps."""
        return self._states[steps_done % 2]

    def memories(self) -> list[Memory]:
        """Every block of memory that could carry a value from one request to the next."""
        return [self.arena, *self._states, self.labels, self.guidance, self.noise, *self._conditioning.values()]

    def _window_steps(self) -> int:
        manifest = self._bundle.manifest
        per_step = sum(4 * e.entries * e.width for e in manifest.prepare.conditioning) * self._axes[ROWS_AXIS]
        return max(1, min(manifest.sampler.steps, MAX_CONDITIONING_BYTES // per_step))

    def _bind_prepares(self) -> list[Callable[[], None]]:
        """One call per window of steps."""
        bundle, steps = self._bundle, self._bundle.manifest.sampler.steps
        engine, signature = bundle.prepare_engine()
        calls = []
        for first in range(0, steps, self.window):
            axes = self._axes | {WINDOW_AXIS: min(self.window, steps - first)}
            inputs = {LABELS: _view(self.labels, signature.inputs[LABELS], axes)}
            for name in bundle.manifest.prepare.tables:
                inputs[name] = _view(self._tables[name], signature.inputs[name], axes, row=first)
            outputs = {name: _view(self._conditioning[name], port, axes) for name, port in signature.outputs.items()}
            calls.append(engine.bind(f"prepare of steps {first}..{first + axes[WINDOW_AXIS] - 1}", inputs, outputs))
        return calls

    def _bind_step(self, index: int, program: int, engine: Any) -> Callable[[], None]:
        manifest = self._bundle.manifest
        signature = step_signature(manifest, program)
        places: dict[str, tuple[Memory, int]] = {
            STATE: (self._states[index % 2], 0),
            STATE_OUT: (self._states[(index + 1) % 2], 0),
            GUIDANCE: (self.guidance, 0),
            NOISE: (self.noise, 0),
        }
        if self.accelerated:
            step, used = manifest.steps[index], manifest.programs[program]
            for slot, offset in zip(used.reads, step.read_offsets, strict=True):
                places[cache_in(slot)] = (self.arena, offset * self.batch)
            for slot, offset in zip(used.writes, step.write_offsets, strict=True):
                places[cache_out(slot)] = (self.arena, offset * self.batch)
        rows = {COEFFICIENTS: (self._tables[COEFFICIENTS], index)}
        rows |= {name: (memory, index % self.window) for name, memory in self._conditioning.items()}

        def view(name: str, port: Port) -> View:
            if name in rows:
                return _view(rows[name][0], port, self._axes, row=rows[name][1])
            memory, offset = places[name]
            return View(memory, offset, port.dtype, port.at(self._axes))

        return engine.bind(  # type: ignore[no-any-return]
            f"step {index}",
            {name: view(name, port) for name, port in signature.inputs.items()},
            {name: view(name, port) for name, port in signature.outputs.items()},
        )


def _view(memory: Memory, port: Port, axes: Mapping[str, int], row: int = 0) -> View:
    """Rows `row`.. of a table in memory. A port without a window axis is one row of it."""
    shape = port.at(axes)
    row_shape = shape[1:] if port.shape[0] == WINDOW_AXIS else shape
    row_bytes = int(np.prod(row_shape)) * np.dtype(port.dtype).itemsize
    return View(memory, row * row_bytes, port.dtype, shape)


def _upload(allocate: Callable[[int], Memory], table: NDArray[Any]) -> Memory:
    memory = allocate(table.nbytes)
    memory.write(table)
    return memory
