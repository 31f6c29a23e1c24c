"""Hold a manifest against itself: every number that is later used as a size, an offset or an index is bounded here."""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from itertools import pairwise

from .engine_index import INDEX_NAME, INDEXED_BACKENDS
from .manifest import (
    EmbeddingPort,
    LabelPort,
    Manifest,
    MaskPort,
    PrepareProgram,
    Program,
    ScalarPort,
    TokenIdsPort,
    TokenMaskPort,
)
from .signature import (
    ALIGNMENT_BYTES,
    BASELINE_COEFFICIENTS,
    COEFFICIENTS,
    GUIDANCE,
    LATENTS,
    NOISE,
    RESULTS,
    STATE,
    STATE_OUT,
    is_encoder,
    slot_and_age,
    slot_bytes,
)

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TENSOR_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_SLOT_NAME = re.compile(r"[a-z0-9_][a-z0-9_.]{0,95}(#[1-9])?")
_READ_NAME = re.compile(r"([^@]*)(@[12])?")
_VALUES_OF_A_SLOT = 3  # the latest and two before it
_MAX_INTEGER = 2**63 - 1
_MAX_ELEMENTS = 1 << 34


def first_problem(manifest: Manifest) -> str | None:
    """The first inconsistency in words, or None."""
    arena = manifest.arena
    for name, value, low, high in _numbers(manifest):
        if not low <= value <= high:
            return f"{name}={value!r:.40} is outside {low} .. {high}"
    names = [slot.name for slot in manifest.slots]
    for name in names:
        if not _SLOT_NAME.fullmatch(name):
            return f"slot {name!r:.80} is no name of a slot"
    if len(set(names)) != len(names):
        return "a slot stands twice"
    most = _VALUES_OF_A_SLOT * sum(slot_bytes(slot, manifest.rows_per_sample) for slot in manifest.slots)
    if not 0 <= arena.bytes <= most:
        return f"arena.bytes={arena.bytes!r:.40} exceeds {_VALUES_OF_A_SLOT} values of every slot, {most}"
    if len(manifest.sampler.timesteps) != manifest.sampler.steps or len(manifest.steps) != manifest.sampler.steps:
        return f"{len(manifest.steps)} steps and {len(manifest.sampler.timesteps)} timesteps, expected " + str(
            manifest.sampler.steps
        )
    if manifest.model.output == "pixels" and len(manifest.model.latent_shape) != 3:
        return f"model.latent_shape has {len(manifest.model.latent_shape)} axes, pixels have 3"
    checks = (_port_problem, _file_problem, _prepare_problem, _program_problem)
    return next((problem for check in checks if (problem := check(manifest))), None)


def _numbers(manifest: Manifest) -> Iterator[tuple[str, float, float, float]]:
    """Name, value, least and greatest of every number with a range of its own. Lazy: a shape's entries are looked at
    once their count has passed, and multiplied once they have."""
    model, sampler = manifest.model, manifest.sampler
    yield from _shape_numbers("model.latent_shape", model.latent_shape, 1, 4)
    yield "model.sites", model.sites, 0, 1 << 20
    yield "len(ports)", len(manifest.ports), 0, 64
    for i, port in enumerate(manifest.ports):
        yield from _shape_numbers(f"ports[{i}].shape", port.shape, 0, 6)
        if isinstance(port, LabelPort):
            yield f"ports[{i}].num_classes", port.num_classes, 1, 1 << 24
            yield f"ports[{i}].null_class", port.null_class, 0, port.num_classes
        elif isinstance(port, (TokenIdsPort, TokenMaskPort)):
            yield f"ports[{i}].tokenizer", port.tokenizer, 0, 7
    yield "len(tokenizers)", len(manifest.tokenizers), 0, 8
    for i, tokenizer in enumerate(manifest.tokenizers):
        yield f"tokenizers[{i}].max_tokens", tokenizer.max_tokens, 1, 1 << 12
        yield f"tokenizers[{i}].pad_id", tokenizer.pad_id, -1, (1 << 31) - 1
    yield "rows_per_sample", manifest.rows_per_sample, 1, 2
    yield "sampler.steps", sampler.steps, 1, 10_000
    yield "sampler.state_size", sampler.state_size, 1, 8
    for i, timestep in enumerate(sampler.timesteps):
        yield f"sampler.timesteps[{i}]", timestep, 0, 1 << 31
    yield "forecasts", manifest.forecasts, 0, 1 << 16
    yield "len(tensors)", len(manifest.tensors), 1, 4096
    for i, tensor in enumerate(manifest.tensors):
        yield from _shape_numbers(f"tensors[{i}].shape", tensor.shape, 1, 6)
    yield "len(prepare)", len(manifest.prepare), 1, 64
    yield "len(slots)", len(manifest.slots), 0, 16384
    for i, slot in enumerate(manifest.slots):
        yield from _shape_numbers(f"slots[{i}].shape", slot.shape, 1, 6)
    for i, program in enumerate(manifest.programs):
        yield f"programs[{i}].flops", program.flops, 0, _MAX_INTEGER
    yield "len(finish)", len(manifest.finish), 0, 1
    for i, finish in enumerate(manifest.finish):
        for j, side in enumerate(finish.shape):
            samples = finish.kind == "audio" and j == 1
            yield f"finish[{i}].shape[{j}]", side, 1, (1 << 31) - 1 if samples else 1 << 16
        yield f"elements of finish[{i}]", math.prod(finish.shape), 1, _MAX_ELEMENTS
        if finish.kind == "video":
            yield f"finish[{i}].frames_per_second", finish.frames_per_second, 1e-3, 1000.0
        elif finish.kind == "audio":
            yield f"finish[{i}].sample_rate", finish.sample_rate, 1, 1 << 20
    yield "len(weights)", len(manifest.weights), 1, 16


def _shape_numbers(
    name: str, shape: tuple[int, ...], least: int, most: int
) -> Iterator[tuple[str, float, float, float]]:
    yield f"len({name})", len(shape), least, most
    for i, side in enumerate(shape):
        yield f"{name}[{i}]", side, 1, 1 << 20
    yield f"elements of {name}", math.prod(shape), 1, _MAX_ELEMENTS


def _port_problem(manifest: Manifest) -> str | None:
    """Each port has the shape of its kind, and the tokenizer that it names."""
    for port in manifest.ports:
        where = f"port {port.name!r:.80}"
        if isinstance(port, (LabelPort, ScalarPort)) and port.shape:
            return f"{where} has shape {list(port.shape)}, a {port.kind} has none"
        if isinstance(port, (EmbeddingPort, MaskPort)) and not port.shape:
            return f"{where} has no axis"
        if isinstance(port, ScalarPort) and not port.least <= port.default <= port.most:
            return f"{where}: default {port.default!r:.40} is outside {port.least!r:.40} .. {port.most!r:.40}"
        if isinstance(port, (TokenIdsPort, TokenMaskPort)):
            if port.tokenizer >= len(manifest.tokenizers):
                return f"{where} names tokenizer {port.tokenizer}, there are {len(manifest.tokenizers)}"
            tokens = manifest.tokenizers[port.tokenizer].max_tokens
            if port.shape != (tokens,):
                return f"{where} has shape {list(port.shape)}, its tokenizer gives [{tokens}]"
    return None


def _prepare_problem(manifest: Manifest) -> str | None:
    """Names are plain and used once; each tensor is made by one program, from what is there before it."""
    tables = [name for program in manifest.prepare for name in program.tables]
    ports = [port.name for port in manifest.ports]
    names = [*ports, *(tensor.name for tensor in manifest.tensors), *tables]
    reserved = {STATE, STATE_OUT, COEFFICIENTS, BASELINE_COEFFICIENTS, GUIDANCE, NOISE, LATENTS, *RESULTS}
    for name in names:
        if not _TENSOR_NAME.fullmatch(name) or name in reserved:
            return f"prepare: {name!r:.80} is not a free, plain name of a tensor"
    if len(set(names)) != len(names):
        return "prepare: a tensor name stands twice"
    per_step = {tensor.name: tensor.per_step for tensor in manifest.tensors}
    made = set[str]()
    for index, program in enumerate(manifest.prepare):
        problem = _order_problem(program, per_step, set(ports), made)
        if problem:
            return f"prepare[{index}] {problem}"
        made |= set(program.outputs)
    missing = sorted(per_step.keys() - made)
    return f"no prepare program makes {missing[0]!r:.80}" if missing else _encoder_problem(manifest)


def _encoder_problem(manifest: Manifest) -> str | None:
    """What encoders make, of what, and that every tokenizer serves one of them."""
    ports = {port.name: port for port in manifest.ports}
    encoders = [program for program in manifest.prepare if is_encoder(manifest, program)]
    encoded = {name for program in encoders for name in program.outputs}
    taken_by_encoders = {name for program in encoders for name in program.inputs}
    for program in encoders:
        if any(not isinstance(ports[name], (EmbeddingPort, MaskPort)) for name in program.outputs):
            return f"{program.file!r} makes a port that is no embedding and no mask"
        if not any(isinstance(ports[name], (TokenIdsPort, EmbeddingPort)) for name in program.inputs):
            return f"{program.file!r} makes ports of neither token ids nor embeddings"
        if not encoded.isdisjoint(program.inputs):
            return f"{program.file!r} takes what an encoder makes"
    others: list[PrepareProgram | Program] = [p for p in manifest.prepare if p not in encoders]
    others += manifest.programs
    for port in manifest.ports:
        if isinstance(port, TokenIdsPort):
            if port.name not in taken_by_encoders:
                return f"no encoder takes {port.name!r}"
            if any(port.name in other.inputs for other in others):
                return f"{port.name!r} is for encoders alone"
    for number in range(len(manifest.tokenizers)):
        ids = [p for p in manifest.ports if isinstance(p, TokenIdsPort) and p.tokenizer == number]
        masks = [p for p in manifest.ports if isinstance(p, TokenMaskPort) and p.tokenizer == number]
        if len(ids) != 1 or len(masks) > 1:
            return f"tokenizers[{number}] has {len(ids)} ports of ids and {len(masks)} of masks; 1 and at most 1 go"
    return None


def _order_problem(program: PrepareProgram, per_step: dict[str, bool], ports: set[str], made: set[str]) -> str | None:
    usable = ports | {name for name in made if not per_step.get(name, False)}
    for name in program.inputs:
        if name not in usable:
            return f"takes {name!r:.80}, which nothing before it gives"
    if len(set(program.inputs)) != len(program.inputs) or not program.outputs:
        return "has an input twice, or no output"
    encodes = ports.issuperset(program.outputs) and ports.issuperset(program.inputs) and not program.tables
    for name in program.outputs:
        if not encodes and per_step.get(name) is not bool(program.tables):
            return f"makes {name!r:.80}, which is no tensor of its kind"
    if made & set(program.outputs) or len(set(program.outputs)) != len(program.outputs):
        return "makes a tensor that was made before"
    return None


def _file_problem(manifest: Manifest) -> str | None:
    tokenizers = [tokenizer.file for tokenizer in manifest.tokenizers]
    used = [*manifest.weights, manifest.tables, *_program_files(manifest), *tokenizers]
    for program in (*manifest.prepare, *manifest.programs, *manifest.finish):
        if program.weights and program.weights not in manifest.weights:
            return f"{program.file!r:.80} takes its weights from {program.weights!r:.80}, which is no weights file"
    for name in [*manifest.files, *used]:
        if not _PLAIN_NAME.fullmatch(name) or ".." in name:
            return f"file name {name!r:.80} is not a plain name inside the bundle"
    for name in used:
        if name not in manifest.files:
            return f"file {name!r} is used but not listed under `files`"
    if len(set(used)) != len(used):
        return "a file has two uses"
    for name, entry in manifest.files.items():
        if entry.bytes < 0 or not re.fullmatch(r"[0-9a-f]{64}", entry.sha256):
            return f"files[{name!r}] has a malformed size or hash"
    if manifest.backend == "null":
        return "backend 'null' computes nothing and is no backend of a bundle"
    if manifest.backend in INDEXED_BACKENDS and INDEX_NAME not in manifest.files:
        return f"file {INDEX_NAME!r} goes with backend {manifest.backend!r} and is not listed under `files`"
    return None


def _program_files(manifest: Manifest) -> list[str]:
    prepare, finish = [p.file for p in manifest.prepare], [p.file for p in manifest.finish]
    return [*prepare, *(p.file for p in manifest.programs), *finish]


def _program_problem(manifest: Manifest) -> str | None:
    if not 0 <= manifest.baseline_program < len(manifest.programs):
        return f"baseline_program={manifest.baseline_program!r:.40} is not one of {len(manifest.programs)} programs"
    baseline = manifest.programs[manifest.baseline_program]
    if baseline.reads or baseline.writes:
        return "the baseline program touches the cache"
    tensors = {tensor.name for tensor in manifest.tensors} | {
        port.name for port in manifest.ports if not isinstance(port, TokenIdsPort)
    }
    slots = {slot.name for slot in manifest.slots}
    for index, program in enumerate(manifest.programs):
        read = [match[1] if (match := _READ_NAME.fullmatch(name)) else "" for name in program.reads]
        if not slots.issuperset(read) or not slots.issuperset(name.partition("@")[0] for name in program.writes):
            return f"programs[{index}] names a cache slot that the model does not have"
        if not slots.issuperset(program.writes):
            return f"programs[{index}] writes a value that is not a slot's latest"
        if len(set(program.reads)) != len(program.reads) or len(set(program.writes)) != len(program.writes):
            return f"programs[{index}] names a cache slot twice"
        if len(set(program.inputs)) != len(program.inputs) or not tensors.issuperset(program.inputs):
            return f"programs[{index}] takes a tensor twice, or one that is not there"
    sizes = {slot.name: slot_bytes(slot, manifest.rows_per_sample) for slot in manifest.slots}
    places = _Places()
    for index, step in enumerate(manifest.steps):
        if not 0 <= step.program < len(manifest.programs):
            return f"steps[{index}].program={step.program!r:.40} does not exist"
        problem = _step_problem(manifest, index, manifest.programs[step.program], sizes, places)
        if problem:
            return problem
    return None


class _Places:
    """Which value of which slot lies where in the arena, and how many newer ones each slot has."""

    def __init__(self) -> None:
        self._begins: list[int] = []  # sorted; places that are in use do not overlap
        self._ends: dict[int, int] = {}
        self._value_at: dict[int, tuple[str, int]] = {}  # begin -> slot and number of the value
        self._count: dict[str, int] = {}  # values that a slot has had

    def holds(self, slot: str, age: int, begin: int) -> bool:
        return self._value_at.get(begin) == (slot, self._count.get(slot, 0) - age)

    def write(self, slot: str, begin: int, size: int, update: bool) -> None:
        """Whatever overlaps is gone. update: it is still the same value."""
        low = bisect_left(self._begins, begin)
        if low and self._ends[self._begins[low - 1]] > begin:
            low -= 1
        high = bisect_left(self._begins, begin + size)
        for old in self._begins[low:high]:
            del self._value_at[old], self._ends[old]
        self._begins[low:high] = [begin]
        self._ends[begin] = begin + size
        self._count[slot] = self._count.get(slot, 0) + (not update)
        self._value_at[begin] = (slot, self._count[slot])


def _step_problem(
    manifest: Manifest, index: int, program: Program, sizes: Mapping[str, int], places: _Places
) -> str | None:
    """Offsets inside the arena; reads where the last write went; an updated slot stays in place; no overlap."""
    step, arena = manifest.steps[index], manifest.arena
    if len(step.read_offsets) != len(program.reads) or len(step.write_offsets) != len(program.writes):
        return f"steps[{index}] has another number of offsets than its program has slots"
    reads = dict(zip(program.reads, step.read_offsets, strict=True))
    writes = dict(zip(program.writes, step.write_offsets, strict=True))
    for name, offset in (*reads.items(), *writes.items()):
        if not 0 <= offset <= arena.bytes - sizes[slot_and_age(name)[0]] or offset % ALIGNMENT_BYTES:
            return f"steps[{index}] has an offset outside the arena of {arena.bytes} bytes, or an unaligned one"
    for name, offset in reads.items():
        slot, age = slot_and_age(name)
        if not places.holds(slot, age, offset):
            return f"steps[{index}] reads slot {name} at {offset}, which no longer or never held it"
        if writes.get(name, offset) != offset:
            return f"steps[{index}] updates slot {name} away from its place"
    touched = sorted((offset, offset + sizes[slot_and_age(name)[0]]) for name, offset in {**reads, **writes}.items())
    if any(after[0] < before[1] for before, after in pairwise(touched)):
        return f"steps[{index}] touches overlapping slots"
    for slot, offset in writes.items():
        places.write(slot, offset, sizes[slot], update=slot in reads)
    return None
