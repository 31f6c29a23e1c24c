"""Hold a manifest against itself: every number that is later used as a size, an offset or an index is bounded here."""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import pairwise

from .engine_index import INDEX_NAME, INDEXED_BACKENDS
from .manifest import LabelCondition, Manifest, PrepareProgram, Program
from .signature import (
    ATTENTION_MASK,
    BASELINE_COEFFICIENTS,
    COEFFICIENTS,
    DTYPES,
    EMBEDS,
    GUIDANCE,
    IMAGE,
    INPUT_IDS,
    ITEM_BYTES,
    LABELS,
    LATENTS,
    NOISE,
    STATE,
    STATE_OUT,
    request_ports,
)

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TENSOR_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_MODULE_NAME = re.compile(r"[a-z_]{1,32}")
_SLOT_NAME = re.compile(r"(0|[1-9][0-9]{0,4})\.([a-z_]{1,32})(?:\.([12]))?")
_ALIGNMENT_BYTES = 256
_STACK = "stack"
_VALUES_OF_A_SLOT = 3  # the latest and two before it
_MAX_INTEGER = 2**63 - 1


def first_problem(manifest: Manifest) -> str | None:
    """The first inconsistency in words, or None."""
    model, arena = manifest.model, manifest.arena
    for name, value, low, high in _numbers(manifest):
        if not low <= value <= high:
            return f"{name}={value!r:.40} is outside {low} .. {high}"
    slot = ITEM_BYTES[DTYPES[manifest.precision]] * manifest.rows_per_sample * model.num_tokens * model.width
    if not 0 <= arena.slot_bytes - slot < _ALIGNMENT_BYTES or arena.slot_bytes % _ALIGNMENT_BYTES:
        return f"arena.slot_bytes={arena.slot_bytes} is not one slot of {slot} bytes, aligned"
    if not 0 <= arena.bytes <= arena.slot_bytes * _VALUES_OF_A_SLOT * (1 + model.num_layers * len(model.modules)):
        return f"arena.bytes={arena.bytes!r:.40} exceeds {_VALUES_OF_A_SLOT} values per layer and module"
    if len(manifest.sampler.timesteps) != manifest.sampler.steps or len(manifest.steps) != manifest.sampler.steps:
        return f"{len(manifest.steps)} steps and {len(manifest.sampler.timesteps)} timesteps, expected " + str(
            manifest.sampler.steps
        )
    if len(set(model.modules)) != len(model.modules) or not all(_MODULE_NAME.fullmatch(m) for m in model.modules):
        return "model.modules has a name twice, or one that is not plain"
    return _file_problem(manifest) or _prepare_problem(manifest) or _program_problem(manifest)


def _numbers(manifest: Manifest) -> Iterator[tuple[str, float, float, float]]:
    """Name, value, least and greatest of every number with a range of its own. Lazy: a shape's entries are looked at
    once their count has passed, and multiplied once they have."""
    model, sampler, condition = manifest.model, manifest.sampler, manifest.model.condition
    yield "model.num_layers", model.num_layers, 1, 1000
    yield "model.num_tokens", model.num_tokens, 1, 1 << 20
    yield "model.width", model.width, 1, 1 << 16
    yield "len(modules)", len(model.modules), 1, 8
    for i, side in enumerate(model.latent_shape):
        yield f"model.latent_shape[{i}]", side, 1, 1 << 14
    if isinstance(condition, LabelCondition):
        yield "model.condition.num_classes", condition.num_classes, 1, 1 << 24
        yield "model.condition.null_class", condition.null_class, 0, condition.num_classes
    else:
        yield "model.condition.max_tokens", condition.max_tokens, 1, 1 << 12
        yield "model.condition.embed_width", condition.embed_width, 1, 1 << 16
    yield "rows_per_sample", manifest.rows_per_sample, 1, 2
    yield "sampler.steps", sampler.steps, 1, 10_000
    yield "sampler.state_size", sampler.state_size, 1, 8
    for i, timestep in enumerate(sampler.timesteps):
        yield f"sampler.timesteps[{i}]", timestep, 0, 1 << 31
    yield "forecasts", manifest.forecasts, 0, 1 << 16
    yield "arena.slot_bytes", manifest.arena.slot_bytes, 1, 1 << 40
    yield "len(tensors)", len(manifest.tensors), 1, 4096
    for i, tensor in enumerate(manifest.tensors):
        yield f"len(tensors[{i}].shape)", len(tensor.shape), 1, 6
        for j, side in enumerate(tensor.shape):
            yield f"tensors[{i}].shape[{j}]", side, 1, 1 << 20
        yield f"elements of tensors[{i}]", math.prod(tensor.shape), 1, 1 << 34
    yield "len(prepare)", len(manifest.prepare), 1, 8
    for i, program in enumerate(manifest.programs):
        yield f"programs[{i}].flops", program.flops, 0, _MAX_INTEGER
    yield "len(finish)", len(manifest.finish), 0, 1
    for i, finish in enumerate(manifest.finish):
        for j, side in enumerate(finish.shape):
            yield f"finish[{i}].shape[{j}]", side, 1, 1 << 16
    yield "len(weights)", len(manifest.weights), 1, 8


def _prepare_problem(manifest: Manifest) -> str | None:
    """Names are plain and used once; each tensor is made by one program, from what is there before it."""
    tables = [name for program in manifest.prepare for name in program.tables]
    names = [tensor.name for tensor in manifest.tensors] + tables
    reserved = {
        LABELS, INPUT_IDS, ATTENTION_MASK, EMBEDS, STATE, STATE_OUT, COEFFICIENTS, BASELINE_COEFFICIENTS, GUIDANCE,
        NOISE, LATENTS, IMAGE,
    }  # fmt: skip
    for name in names:
        if not _TENSOR_NAME.fullmatch(name) or name in reserved:
            return f"prepare: {name!r:.80} is not a free, plain name of a tensor"
    if len(set(names)) != len(names):
        return "prepare: a tensor name stands twice"
    per_step = {tensor.name: tensor.per_step for tensor in manifest.tensors}
    given, made = set(request_ports(manifest)), set[str]()
    for index, program in enumerate(manifest.prepare):
        problem = _order_problem(program, per_step, given, made)
        if problem:
            return f"prepare[{index}] {problem}"
        made |= set(program.outputs)
    missing = sorted(per_step.keys() - made)
    return f"no prepare program makes {missing[0]!r:.80}" if missing else _encoder_problem(manifest)


def _encoder_problem(manifest: Manifest) -> str | None:
    """Prompts need a tokenizer and a text encoder, which is skipped where embeddings are given: so nothing else may
    come from it or from token ids, nor may it need what other programs make."""
    condition = manifest.model.condition
    if isinstance(condition, LabelCondition):
        return None
    encoders = [program for program in manifest.prepare if EMBEDS in program.outputs]
    if bool(encoders) != bool(condition.tokenizer):
        return f"a tokenizer and a prepare program that makes {EMBEDS!r} are there together or not at all"
    for index, program in enumerate(manifest.prepare):
        if program not in encoders and INPUT_IDS in program.inputs:
            return f"prepare[{index}] takes {INPUT_IDS!r}, which is for the program that makes {EMBEDS!r} alone"
        if program in encoders and (
            program.outputs != (EMBEDS,) or not {INPUT_IDS, ATTENTION_MASK}.issuperset(program.inputs)
        ):
            return f"prepare[{index}] makes more than {EMBEDS!r}, or of more than {INPUT_IDS!r} and {ATTENTION_MASK!r}"
    return None


def _order_problem(program: PrepareProgram, per_step: dict[str, bool], given: set[str], made: set[str]) -> str | None:
    usable = given | {name for name in made if not per_step.get(name, False)}
    for name in program.inputs:
        if name not in usable:
            return f"takes {name!r:.80}, which nothing before it gives"
    if len(set(program.inputs)) != len(program.inputs) or not program.outputs:
        return "has an input twice, or no output"
    for name in program.outputs:
        encodes_text = name == EMBEDS and EMBEDS in given and not program.tables
        if not encodes_text and per_step.get(name) is not bool(program.tables):
            return f"makes {name!r:.80}, which is no tensor of its kind"
    if made & set(program.outputs) or len(set(program.outputs)) != len(program.outputs):
        return "makes a tensor that was made before"
    return None


def _file_problem(manifest: Manifest) -> str | None:
    used = [*manifest.weights, manifest.tables, *_program_files(manifest)]
    condition = manifest.model.condition
    if not isinstance(condition, LabelCondition) and condition.tokenizer:
        used.append(condition.tokenizer)
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
    tensors = {tensor.name for tensor in manifest.tensors}
    for index, program in enumerate(manifest.programs):
        slots = [*program.reads, *program.writes]
        if any(not _is_slot(manifest, slot) for slot in slots):
            return f"programs[{index}] names a cache slot that the model does not have"
        if any(_value_of(slot)[1] for slot in program.writes):
            return f"programs[{index}] writes a value that is not a slot's latest"
        if len(set(program.reads)) != len(program.reads) or len(set(program.writes)) != len(program.writes):
            return f"programs[{index}] names a cache slot twice"
        if len(set(program.inputs)) != len(program.inputs) or not tensors.issuperset(program.inputs):
            return f"programs[{index}] takes a tensor twice, or one that is not there"
    places = _Places(manifest.arena.slot_bytes)
    for index, step in enumerate(manifest.steps):
        if not 0 <= step.program < len(manifest.programs):
            return f"steps[{index}].program={step.program!r:.40} does not exist"
        problem = _step_problem(manifest, index, manifest.programs[step.program], places)
        if problem:
            return problem
    return None


class _Places:
    """Which value of which slot lies where in the arena, and how many newer ones each slot has."""

    def __init__(self, slot_bytes: int) -> None:
        self._slot_bytes = slot_bytes
        self._begins: list[int] = []  # sorted
        self._value_at: dict[int, tuple[str, int]] = {}  # begin -> slot and number of the value
        self._count: dict[str, int] = {}  # values that a slot has had

    def holds(self, slot: str, age: int, begin: int) -> bool:
        return self._value_at.get(begin) == (slot, self._count.get(slot, 0) - age)

    def write(self, slot: str, begin: int, update: bool) -> None:
        """Whatever overlaps is gone. update: it is still the same value."""
        low = bisect_right(self._begins, begin - self._slot_bytes)
        high = bisect_left(self._begins, begin + self._slot_bytes)
        for old in self._begins[low:high]:
            del self._value_at[old]
        self._begins[low:high] = [begin]
        self._count[slot] = self._count.get(slot, 0) + (not update)
        self._value_at[begin] = (slot, self._count[slot])


def _step_problem(manifest: Manifest, index: int, program: Program, places: _Places) -> str | None:
    """Offsets inside the arena; reads where the last write went; an updated slot stays in place; no overlap."""
    step, arena = manifest.steps[index], manifest.arena
    if len(step.read_offsets) != len(program.reads) or len(step.write_offsets) != len(program.writes):
        return f"steps[{index}] has another number of offsets than its program has slots"
    for offset in (*step.read_offsets, *step.write_offsets):
        if not 0 <= offset <= arena.bytes - arena.slot_bytes or offset % _ALIGNMENT_BYTES:
            return f"steps[{index}] has an offset outside the arena of {arena.bytes} bytes, or an unaligned one"
    reads = dict(zip(program.reads, step.read_offsets, strict=True))
    writes = dict(zip(program.writes, step.write_offsets, strict=True))
    for name, offset in reads.items():
        slot, age = _value_of(name)
        if not places.holds(slot, age, offset):
            return f"steps[{index}] reads slot {name} at {offset}, which no longer or never held it"
        if writes.get(name, offset) != offset:
            return f"steps[{index}] updates slot {name} away from its place"
    touched = sorted({**reads, **writes}.values())
    if any(after - before < arena.slot_bytes for before, after in pairwise(touched)):
        return f"steps[{index}] touches overlapping slots"
    for slot, offset in writes.items():
        places.write(slot, offset, update=slot in reads)
    return None


def _is_slot(manifest: Manifest, name: str) -> bool:
    match, model = _SLOT_NAME.fullmatch(name), manifest.model
    if match is None:
        return False
    layer, module = int(match[1]), match[2]
    return (layer < model.num_layers and module in model.modules) or (layer == model.num_layers and module == _STACK)


def _value_of(name: str) -> tuple[str, int]:
    """A slot's name as it is written, and the age of the value."""
    layer, module, *age = name.split(".")
    return f"{layer}.{module}", int(age[0]) if age else 0
