"""Names and shapes of every engine's inputs and outputs: what the builder exports and the runtime binds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from .manifest import (
    VERSION,
    Carry,
    FinishProgram,
    Manifest,
    PreparedTensor,
    PrepareProgram,
    RequestPort,
    Slot,
    SlotDtype,
    VideoFinish,
)

LABELS = "labels"
INPUT_IDS, ATTENTION_MASK, EMBEDS = "input_ids", "attention_mask", "embeds"
"""Names of ports in bundles of one tokenizer and one text encoder; the manifest's are what counts."""
STATE, STATE_OUT = "state", "state_out"
COEFFICIENTS = "coefficients"
BASELINE_COEFFICIENTS = "baseline_coefficients"
"""The table of the sampler's own coefficients, where the schedule brings others."""
START_LEVELS, START_COEFFICIENTS, START_KNOWN = "start.levels", "start.coefficients", "start.known"
"""Tables of bundles whose requests may start at a step from given latents."""
PREVIEW_LEVELS = "preview.levels"
"""Table of bundles that give previews: [S, 2], the shares of latents and prediction in the clean sample before each
step. No name of another table has a dot."""
MASK = "mask"
"""The port of an inpainting bundle, which has the table START_KNOWN: 1 where latents are drawn anew."""
GUIDANCE = "guidance"
NOISE = "noise"
LATENTS, IMAGE = "latents", "image"
FINISHED = (IMAGE, "video", "audio")
"""What a finish program makes: its kind."""
BATCH_AXIS, ROWS_AXIS, WINDOW_AXIS = "batch", "rows", "window"
ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int64": 8}
DTYPES: dict[str, SlotDtype] = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""Precision -> dtype."""
SLOT_ALIGNMENT_BYTES = 256
AGE_MARK = "@"
_DOTTED_AGES_UNTIL = 4  # the last format version whose programs have `cache.12.ff.1` where it is `cache.12.ff@1` now

Shape = tuple[int | str, ...]


@dataclass(frozen=True)
class Port:
    """One input or output: its dtype as numpy spells it, or bfloat16, and its shape with symbolic axes by name."""

    dtype: str
    shape: Shape

    def at(self, axes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape with its symbolic axes filled in."""
        return tuple(axes[n] if isinstance(n, str) else n for n in self.shape)


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of one program by name. reads: inputs that are slots -> slot and age of the value."""

    inputs: dict[str, Port]
    outputs: dict[str, Port]
    reads: dict[str, tuple[str, int]] = field(default_factory=dict)


def cache_in(read: str, version: int = VERSION) -> str:
    """Input name of what a program reads, a slot's name that may have an age, in a bundle of a format version."""
    return f"cache.{read.replace(AGE_MARK, '.') if version <= _DOTTED_AGES_UNTIL else read}"


def cache_out(slot: str) -> str:
    """Output name of a cache slot."""
    return f"cache_out.{slot}"


def carry_in(name: str) -> str:
    """Input name of what a call of a video's finish program takes from the one before."""
    return f"carry.{name}"


def carry_out(name: str) -> str:
    """Output name of what a call of a video's finish program hands to the next one."""
    return f"carry_out.{name}"


def coefficient_count(state_size: int, learned_variance: bool = False) -> int:
    """Length of a row of sampler coefficients: scale, A (n x n, row by row), b (n), c (n), then the least and
    greatest log variance where it is learned."""
    return 1 + state_size * state_size + 2 * state_size + 2 * learned_variance


def scalar_count(manifest: Manifest) -> int:
    """Length of a row of the tables of coefficients: the sampler's, then 3 weights for each group of forecasts."""
    sampler = manifest.sampler
    return coefficient_count(sampler.state_size, sampler.learned_variance) + 3 * manifest.forecasts


def coefficient_table(manifest: Manifest, accelerated: bool) -> str:
    """The table whose rows a request's steps take as `coefficients`."""
    return BASELINE_COEFFICIENTS if manifest.sampler.fitted and not accelerated else COEFFICIENTS


def slot_bytes(slot: Slot, rows_per_sample: int) -> int:
    """Size of a slot's place for one sample: its rows, rounded up to the arena's alignment."""
    size = ITEM_BYTES[slot.dtype] * rows_per_sample * math.prod(slot.shape)
    return -(-size // SLOT_ALIGNMENT_BYTES) * SLOT_ALIGNMENT_BYTES


def slot_of(read: str) -> tuple[str, int]:
    """What a program reads, as the slot's name and the age of the value."""
    name, _, age = read.partition(AGE_MARK)
    return name, int(age) if age else 0


def encoders(manifest: Manifest) -> tuple[PrepareProgram, ...]:
    """The prepare programs that make ports of the request: text encoders."""
    names = {port.name for port in manifest.ports}
    return tuple(program for program in manifest.prepare if names.intersection(program.outputs))


def request_port(port: RequestPort) -> Port:
    """A port of the request as programs take it."""
    return Port(port.dtype, (ROWS_AXIS, *port.shape))


def request_ports(manifest: Manifest) -> dict[str, Port]:
    """What a request gives, or encoders make of what it gives."""
    return {port.name: request_port(port) for port in manifest.ports}


def tensor_port(tensor: PreparedTensor) -> Port:
    """A prepared tensor as one step, or the request, sees it."""
    return Port(tensor.dtype, (ROWS_AXIS if tensor.rows else 1, *tensor.shape))


def step_signature(manifest: Manifest, program: int) -> Signature:
    """What program number `program` must take and give."""
    used, version = manifest.programs[program], manifest.version
    state = Port("float32", (manifest.sampler.state_size, BATCH_AXIS, *manifest.model.latent_shape))
    slots = {slot.name: Port(slot.dtype, (ROWS_AXIS, *slot.shape)) for slot in manifest.slots}
    inputs = {STATE: state, COEFFICIENTS: Port("float32", (scalar_count(manifest),))}
    known = {tensor.name: tensor_port(tensor) for tensor in manifest.tensors} | request_ports(manifest)
    inputs |= {name: known[name] for name in used.inputs}
    if manifest.rows_per_sample == 2:
        inputs[GUIDANCE] = Port("float32", (1,))
    if manifest.sampler.stochastic:
        inputs[NOISE] = Port("float32", (BATCH_AXIS, *manifest.model.latent_shape))
    reads = {cache_in(name, version): slot_of(name) for name in used.reads}
    inputs |= {name: slots[slot] for name, (slot, _) in reads.items()}
    outputs = {STATE_OUT: state} | {cache_out(name): slots[name] for name in used.writes}
    return Signature(inputs, outputs, reads)


def prepare_signature(manifest: Manifest, program: PrepareProgram, tables: Mapping[str, Shape]) -> Signature:
    """What a prepare program must take and give; `tables`: full shape [steps, ...] of each table by name."""
    made = {tensor.name: tensor_port(tensor) for tensor in manifest.tensors}
    known = made | request_ports(manifest)
    inputs = {name: known[name] for name in program.inputs}
    inputs |= {name: Port("float32", (WINDOW_AXIS, *tables[name][1:])) for name in program.tables}
    window: Shape = (WINDOW_AXIS,) if program.tables else ()
    outputs = {name: Port(known[name].dtype, (*window, *known[name].shape)) for name in program.outputs}
    return Signature(inputs, outputs)


def finish_signature(manifest: Manifest, program: FinishProgram, first: bool = False) -> Signature:
    """What the finish program must take and give; of a video, in one call. first: that of its first program."""
    latents, made = manifest.model.latent_shape, tuple(program.shape)
    carried: tuple[Carry, ...] = ()
    if isinstance(program, VideoFinish):
        chunk, carried = program.first[0] if first else program, program.carry
        latents, made = (latents[0], chunk.latent_frames, *latents[2:]), (chunk.frames, *made[1:])
    carry = {each.name: Port(each.dtype, (BATCH_AXIS, *each.shape)) for each in carried}
    inputs = {LATENTS: Port("float32", (BATCH_AXIS, *latents))}
    outputs = {program.kind: Port("float32", (BATCH_AXIS, *made))}
    return Signature(
        inputs | {carry_in(name): port for name, port in carry.items()},
        outputs | {carry_out(name): port for name, port in carry.items()},
    )


def finish_programs(manifest: Manifest) -> dict[str, Signature]:
    """File and signature of each program that makes the result: of a video perhaps two."""
    found: dict[str, Signature] = {}
    for program in manifest.finish:
        if isinstance(program, VideoFinish):
            found |= {each.file: finish_signature(manifest, program, first=True) for each in program.first}
        found[program.file] = finish_signature(manifest, program)
    return found


def program_files(manifest: Manifest) -> list[tuple[str, str]]:
    """Every program's file with the weights file that it takes its weights from, "" for none."""
    files = [(each.file, each.weights) for each in (*manifest.prepare, *manifest.programs, *manifest.finish)]
    for each in manifest.finish:
        if isinstance(each, VideoFinish):
            files += [(first.file, each.weights) for first in each.first]
    return files
