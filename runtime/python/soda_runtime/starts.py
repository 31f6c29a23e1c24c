"""A request that starts at a step from given latents: which step that is, its state and its rows of coefficients, and
which of its steps the cache can serve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import RequestError
from .manifest import Manifest
from .request import Request
from .signature import START_COEFFICIENTS, START_KNOWN, START_LEVELS, coefficient_table, slot_of
from .values import brief, real_array

Tables = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Start:
    """first: the step that runs first; None where an inpainting begins with noise alone. latents: clean ones [1 or B,
    *latent_shape]."""

    first: int | None
    latents: NDArray[np.float32]

    def state(self, tables: Tables, noise: NDArray[np.float32]) -> NDArray[np.float32]:
        """The latents as they are before step `first`: [B, *latent_shape]. noise: [B, *latent_shape]."""
        signal, share = tables[START_LEVELS][self.first, :2]
        with np.errstate(over="ignore", invalid="ignore"):  # results that are not finite are refused
            mixed: NDArray[np.float32] = signal * self.latents + share * noise
        return mixed


def cached_steps(manifest: Manifest, first: int) -> frozenset[int]:
    """The steps that run the schedule's own programs where step `first` is the first: those that read only values that
    such steps wrote, and call the model: one that does not goes on from predictions, which the rows of a start do not
    remember. The others run the baseline program, which leaves the cache as it is."""
    tensors = {tensor.name for tensor in manifest.tensors}
    there: dict[str, list[bool]] = {}  # of each slot's values, newest first: whether all its writes were made
    cached = set()
    for index, step in enumerate(manifest.steps):
        program = manifest.programs[step.program]
        reads = [there[slot][: age + 1] for slot, age in map(slot_of, program.reads)]
        calls = bool(program.reads or program.writes) or not tensors.isdisjoint(program.inputs)
        runs = index >= first and calls and all(map(all, reads))
        cached |= {index} if runs else set()
        for slot in program.writes:
            values = there.setdefault(slot, [])
            if slot in program.reads:  # it stays the same value
                values[0] = values[0] and runs
            else:
                values.insert(0, runs)
    return frozenset(cached)


def start_rows(manifest: Manifest, tables: Tables, first: int) -> NDArray[np.float32]:
    """[S, columns]: the rows that steps take as `coefficients` where step `first` is the first: the sampler's own, the
    first of them those of a sampler that remembers nothing."""
    rows: NDArray[np.float32] = tables[coefficient_table(manifest, False)].copy()
    if START_COEFFICIENTS in tables:
        fresh = tables[START_COEFFICIENTS][first][: len(rows) - first]
        rows[first : first + len(fresh)] = fresh
    return rows


def judge_start(request: Request, manifest: Manifest, tables: Tables) -> Start | None:
    """None where the request begins with noise alone. Raises RequestError."""
    if request.start_latents is None:
        if request.strength is not None or request.start_step is not None:
            raise RequestError("strength and start_step go with start_latents; give them, or leave both out")
        return None
    if START_LEVELS not in tables:
        raise RequestError(
            f"this bundle cannot start from latents: the sampler {manifest.sampler.name} cannot, or an older "
            "soda-export built it; build it again, with another --sampler"
        )
    if (request.strength is None) == (request.start_step is None):
        raise RequestError("start_latents: give one of strength and start_step")
    shape, latents = manifest.model.latent_shape, real_array(request.start_latents, "start_latents")
    if latents.shape[1:] != shape or len(latents.shape) != 1 + len(shape) or not len(latents):
        wanted = ", ".join(["samples", *map(str, shape)])
        raise RequestError(f"start_latents have shape {list(latents.shape)}, expected [{wanted}]")
    steps = manifest.sampler.steps
    if request.strength == 1 and START_KNOWN in tables:
        return Start(None, latents)
    if request.strength is not None:
        return Start(_step_of_strength(request.strength, steps, bool(tables[START_LEVELS][0, 2])), latents)
    step = request.start_step
    if isinstance(step, bool) or not isinstance(step, (int, np.integer)) or not 0 <= step < steps:
        raise RequestError(f"start_step {brief(step)} is not one of the steps 0 .. {steps - 1}")
    return Start(int(step), latents)


def _step_of_strength(strength: object, steps: int, rounds_down: bool) -> int:
    """As pipelines of diffusers have it; those of flows round the first step down, the others the steps that run."""
    if not isinstance(strength, (int, float, np.integer, np.floating)) or not 0 < strength <= 1:
        raise RequestError(f"strength {brief(strength)} is not a number above 0, up to 1")
    run = steps * float(strength)
    first = int(steps - run) if rounds_down else steps - int(run)
    if first >= steps:
        raise RequestError(f"strength {strength:g} of {steps} steps leaves none to run; give {1 / steps:.3g} or more")
    return first
