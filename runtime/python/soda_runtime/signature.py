"""Names and shapes of every engine's inputs and outputs: what the builder exports and the runtime binds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .manifest import Manifest

LABELS = "labels"
STATE, STATE_OUT = "state", "state_out"
COEFFICIENTS = "coefficients"
GUIDANCE = "guidance"
NOISE = "noise"
BATCH_AXIS, ROWS_AXIS, WINDOW_AXIS = "batch", "rows", "window"

Shape = tuple[int | str, ...]


@dataclass(frozen=True)
class Port:
    """One input or output: dtype as numpy spells it; symbolic axes are BATCH_AXIS, ROWS_AXIS, WINDOW_AXIS."""

    dtype: str
    shape: Shape

    def at(self, axes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape with its symbolic axes filled in."""
        return tuple(axes[n] if isinstance(n, str) else n for n in self.shape)


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of one program by name."""

    inputs: dict[str, Port]
    outputs: dict[str, Port]


def cache_in(slot: str) -> str:
    """Input name of a cache slot."""
    return f"cache.{slot}"


def cache_out(slot: str) -> str:
    """Output name of a cache slot."""
    return f"cache_out.{slot}"


def coefficient_count(state_size: int) -> int:
    """Length of a row of sampler coefficients: scale, A (n x n, row by row), b (n), c (n)."""
    return 1 + state_size * state_size + 2 * state_size


def step_signature(manifest: Manifest, program: int) -> Signature:
    """What program number `program` must take and give."""
    state = Port("float32", (manifest.sampler.state_size, BATCH_AXIS, *manifest.model.latent_shape))
    slot = Port("float32", (ROWS_AXIS, manifest.model.num_tokens, manifest.model.width))
    inputs = {STATE: state, COEFFICIENTS: Port("float32", (coefficient_count(manifest.sampler.state_size),))}
    for entry in manifest.prepare.conditioning:
        inputs[entry.name] = Port("float32", (ROWS_AXIS, entry.entries, entry.width))
    if manifest.rows_per_sample == 2:
        inputs[GUIDANCE] = Port("float32", (1,))
    if manifest.sampler.stochastic:
        inputs[NOISE] = Port("float32", (BATCH_AXIS, *manifest.model.latent_shape))
    inputs |= {cache_in(name): slot for name in manifest.programs[program].reads}
    outputs = {STATE_OUT: state} | {cache_out(name): slot for name in manifest.programs[program].writes}
    return Signature(inputs, outputs)


def prepare_signature(manifest: Manifest, tables: Mapping[str, Shape]) -> Signature:
    """What the prepare program must take and give; `tables`: full shape [steps, ...] of each table by name."""
    inputs = {LABELS: Port("int64", (ROWS_AXIS,))}
    inputs |= {name: Port("float32", (WINDOW_AXIS, *tables[name][1:])) for name in manifest.prepare.tables}
    outputs = {
        entry.name: Port("float32", (WINDOW_AXIS, ROWS_AXIS, entry.entries, entry.width))
        for entry in manifest.prepare.conditioning
    }
    return Signature(inputs, outputs)
