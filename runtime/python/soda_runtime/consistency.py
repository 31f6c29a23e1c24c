"""Hold a manifest against itself: every number that is later used as a size, an offset or an index is bounded here.

The order of play has its checks in `dispatch.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

from .chunks import chunk_problem
from .dispatch import dispatch_problem
from .engine_index import INDEX_NAME, INDEXED_BACKENDS
from .manifest import (
    AudioFinish,
    EmbeddingPort,
    HintPort,
    LabelPort,
    Manifest,
    MaskPort,
    PrepareProgram,
    ScalarPort,
    TokenIdsPort,
    TokenMaskPort,
    VideoFinish,
)
from .signature import (
    BASELINE_COEFFICIENTS,
    COEFFICIENTS,
    FINISHED,
    GUIDANCE,
    LATENTS,
    NOISE,
    STATE,
    STATE_OUT,
    encoders,
    program_files,
    slot_bytes,
)

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TENSOR_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_SLOT_NAME = re.compile(r"[a-z0-9_][a-z0-9_.]{0,95}(#[1-9])?")
_RESERVED = {STATE, STATE_OUT, COEFFICIENTS, BASELINE_COEFFICIENTS, GUIDANCE, NOISE, LATENTS, *FINISHED}
_VALUES_OF_A_SLOT = 3  # the latest and two before it
_MAX_INTEGER = 2**63 - 1
MAX_SIDE, _MAX_ELEMENTS = 1 << 20, 1 << 34
_Numbers = Iterator[tuple[str, float, float, float]]


def first_problem(manifest: Manifest) -> str | None:
    """The first inconsistency in words, or None."""
    for name, value, low, high in _numbers(manifest):
        if not low <= value <= high:
            return f"{name}={value!r:.40} is outside {low} .. {high}"
    return (
        _slot_problem(manifest)
        or _length_problem(manifest)
        or chunk_problem(manifest)
        or _carry_problem(manifest)
        or _port_problem(manifest)
        or _file_problem(manifest)
        or _prepare_problem(manifest)
        or _encoder_problem(manifest)
        or dispatch_problem(manifest)
    )


def _numbers(manifest: Manifest) -> _Numbers:
    """Name, value, least and greatest of every number with a range of its own. Lazy: a shape's entries are looked at
    once their count has passed, and multiplied once they have."""
    sampler = manifest.sampler
    yield from _sides("model.latent_shape", manifest.model.latent_shape, 1, 4)
    yield "model.sites", manifest.model.sites, 0, 1 << 20
    yield "len(ports)", len(manifest.ports), 0, 64
    for i, port in enumerate(manifest.ports):
        yield from _sides(f"ports[{i}].shape", port.shape, 0, 6)
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
    yield "sampler.state_size", sampler.state_size, 1, 16
    for i, timestep in enumerate(sampler.timesteps):
        yield f"sampler.timesteps[{i}]", timestep, 0, 1 << 31
    yield "forecasts", manifest.forecasts, 0, 1 << 16
    yield "len(tensors)", len(manifest.tensors), 1, 4096
    for i, tensor in enumerate(manifest.tensors):
        yield from _sides(f"tensors[{i}].shape", tensor.shape, 1, 6)
    yield "len(prepare)", len(manifest.prepare), 1, 64
    yield "len(slots)", len(manifest.slots), 0, 1 << 14
    for i, slot in enumerate(manifest.slots):
        yield from _sides(f"slots[{i}].shape", slot.shape, 1, 6)
    for i, program in enumerate(manifest.programs):
        yield f"programs[{i}].flops", program.flops, 0, _MAX_INTEGER
    yield from _finish_numbers(manifest)
    yield "len(weights)", len(manifest.weights), 1, 16


def _finish_numbers(manifest: Manifest) -> _Numbers:
    yield "len(finish)", len(manifest.finish), 0, 1
    for finish in manifest.finish:
        is_audio = isinstance(finish, AudioFinish)
        for j, side in enumerate(finish.shape):
            yield f"finish[0].shape[{j}]", side, 1, _MAX_INTEGER >> 32 if is_audio and j == 1 else 1 << 16
        yield "elements of finish[0]", math.prod(finish.shape), 1, _MAX_ELEMENTS
        if isinstance(finish, VideoFinish):
            yield "finish[0].frames_per_second", finish.frames_per_second, 1e-3, 1e3
            yield from _chunk_numbers(finish)
        elif isinstance(finish, AudioFinish):
            yield "finish[0].sample_rate", finish.sample_rate, 1, 1 << 20


def _chunk_numbers(finish: VideoFinish) -> _Numbers:
    yield "len(finish[0].first)", len(finish.first), 0, 1
    calls = [(first.latent_frames, first.frames) for first in finish.first] + [(finish.latent_frames, finish.frames)]
    for latent_frames, frames in calls:
        yield "finish[0]: latent_frames", latent_frames, 1, MAX_SIDE
        yield "finish[0]: frames", frames, 1, 1 << 16
    yield "len(finish[0].carry)", len(finish.carry), 0, 64
    for i, carry in enumerate(finish.carry):
        yield from _sides(f"finish[0].carry[{i}].shape", carry.shape, 1, 6)


def _sides(name: str, shape: Sequence[int], least: int, most: int) -> _Numbers:
    yield f"len({name})", len(shape), least, most
    for i, side in enumerate(shape):
        yield f"{name}[{i}]", side, 1, MAX_SIDE
    yield f"elements of {name}", math.prod(shape), 1, _MAX_ELEMENTS


def _slot_problem(manifest: Manifest) -> str | None:
    names = [slot.name for slot in manifest.slots]
    for name in names:
        if not _SLOT_NAME.fullmatch(name):
            return f"slots: {name!r:.120} is not a plain name of a slot"
    if len(set(names)) != len(names):
        return "slots: a name stands twice"
    most = _VALUES_OF_A_SLOT * sum(slot_bytes(slot, manifest.rows_per_sample) for slot in manifest.slots)
    if not 0 <= manifest.arena.bytes <= most:
        return f"arena.bytes={manifest.arena.bytes!r:.40} exceeds {_VALUES_OF_A_SLOT} values of every slot"
    return None


def _length_problem(manifest: Manifest) -> str | None:
    model, sampler = manifest.model, manifest.sampler
    if len(sampler.timesteps) != sampler.steps or len(manifest.steps) != sampler.steps:
        return f"{len(manifest.steps)} steps and {len(sampler.timesteps)} timesteps, expected {sampler.steps}"
    if model.output == "pixels" and len(model.latent_shape) != 3:
        return f"latents of shape {list(model.latent_shape)} are no pixels"
    return None


def _carry_problem(manifest: Manifest) -> str | None:
    for finish in manifest.finish:
        names = [carry.name for carry in finish.carry] if isinstance(finish, VideoFinish) else []
        if len(set(names)) != len(names) or not all(_SLOT_NAME.fullmatch(name) for name in names):
            return "finish[0].carry: a name stands twice, or is not plain"
    return None


def _port_problem(manifest: Manifest) -> str | None:
    """Each port has the dtype and the shape of its kind."""
    for i, port in enumerate(manifest.ports):
        dtype, shape = "int64", port.shape
        if isinstance(port, (TokenIdsPort, TokenMaskPort)):
            if port.tokenizer >= len(manifest.tokenizers):
                return f"ports[{i}].tokenizer={port.tokenizer} is not one of {len(manifest.tokenizers)} tokenizers"
            fits = shape == (manifest.tokenizers[port.tokenizer].max_tokens,)
        elif isinstance(port, (EmbeddingPort, HintPort, MaskPort)):
            dtype, fits = dtype if isinstance(port, MaskPort) else "float32", bool(shape)
        else:
            dtype, fits = "float32" if isinstance(port, ScalarPort) else dtype, not shape
        if port.dtype != dtype or not fits:
            return f"ports[{i}] of kind {port.kind!r} cannot be {port.dtype} {list(shape)}"
        if isinstance(port, ScalarPort) and not port.least <= port.default <= port.most:
            return f"ports[{i}].default={port.default} is outside {port.least} .. {port.most}"
    return None


def _prepare_problem(manifest: Manifest) -> str | None:
    """Names are plain and used once; each tensor is made by one program, from what is there before it."""
    tables = [name for program in manifest.prepare for name in program.tables]
    ports = {port.name for port in manifest.ports}
    names = [*(port.name for port in manifest.ports), *(tensor.name for tensor in manifest.tensors), *tables]
    for name in names:
        if not _TENSOR_NAME.fullmatch(name) or name in _RESERVED:
            return f"ports and prepare: {name!r:.80} is not a free, plain name"
    if len(set(names)) != len(names):
        return "ports and prepare: a name stands twice"
    per_step = {tensor.name: tensor.per_step for tensor in manifest.tensors}
    made = set[str]()
    for index, program in enumerate(manifest.prepare):
        problem = _order_problem(program, per_step, ports, made)
        if problem:
            return f"prepare[{index}] {problem}"
        made |= set(program.outputs)
    missing = sorted(per_step.keys() - made)
    return f"no prepare program makes {missing[0]!r:.80}" if missing else None


def _order_problem(program: PrepareProgram, per_step: dict[str, bool], ports: set[str], made: set[str]) -> str | None:
    usable = ports | {name for name in made if not per_step.get(name, True)}
    for name in program.inputs:
        if name not in usable:
            return f"takes {name!r:.80}, which nothing before it gives"
    if len(set(program.inputs)) != len(program.inputs) or not program.outputs:
        return "has an input twice, or no output"
    encodes = not program.tables and ports.issuperset((*program.inputs, *program.outputs))
    for name in program.outputs:
        if not encodes and per_step.get(name) is not bool(program.tables):
            return f"makes {name!r:.80}, which is no tensor of its kind"
    if made & set(program.outputs) or len(set(program.outputs)) != len(program.outputs):
        return "makes a tensor that was made before"
    return None


def _encoder_problem(manifest: Manifest) -> str | None:
    """Encoders are skipped where their outputs are given: so nothing else may come from them or from token ids, nor may
    they need what others make."""
    ports, made_by = {port.name: port for port in manifest.ports}, encoders(manifest)
    made = {name for program in made_by for name in program.outputs}
    taken = set[str]()
    for program in made_by:
        if not all(isinstance(ports[name], (EmbeddingPort, MaskPort)) for name in program.outputs):
            return f"{program.file} makes a port that is no embedding and no mask"
        if not any(isinstance(ports[name], (TokenIdsPort, EmbeddingPort)) for name in program.inputs):
            return f"{program.file} makes ports of neither tokens nor embeddings"
        if made.intersection(program.inputs):
            return f"{program.file} takes what an encoder makes"
        taken.update(program.inputs)
    others = [program.inputs for program in manifest.prepare if program not in made_by]
    others += [program.inputs for program in manifest.programs]
    taken_by_others = {name for inputs in others for name in inputs}
    tokens = [port for port in manifest.ports if isinstance(port, TokenIdsPort)]
    masks = [port.tokenizer for port in manifest.ports if isinstance(port, TokenMaskPort)]
    for port in tokens:
        if port.name not in taken or port.name in taken_by_others:
            return f"port {port.name!r} of token ids is for encoders alone, and for one at least"
    if sorted(port.tokenizer for port in tokens) != list(range(len(manifest.tokenizers))):
        return "each tokenizer has one port of token ids"
    return "a tokenizer has two ports of masks" if len(set(masks)) != len(masks) else None


def _file_problem(manifest: Manifest) -> str | None:
    programs = program_files(manifest)
    used = [*manifest.weights, manifest.tables, *(file for file, _ in programs)]
    used += [tokenizer.file for tokenizer in manifest.tokenizers]
    for name in [*manifest.files, *used]:
        if not _PLAIN_NAME.fullmatch(name) or ".." in name:
            return f"file name {name!r:.80} is not a plain name inside the bundle"
    for name in used:
        if name not in manifest.files:
            return f"file {name!r} is used but not listed under `files`"
    if len(set(used)) != len(used):
        return "a file has two uses"
    for file, weights in programs:
        if weights and weights not in manifest.weights:
            return f"{file} has its weights in {weights!r:.80}, which is no weights file"
    for name, entry in manifest.files.items():
        if entry.bytes < 0 or not re.fullmatch(r"[0-9a-f]{64}", entry.sha256):
            return f"files[{name!r}] has a malformed size or hash"
    if manifest.backend == "null":
        return "backend 'null' computes nothing and is no backend of a bundle"
    if manifest.backend in INDEXED_BACKENDS and INDEX_NAME not in manifest.files:
        return f"file {INDEX_NAME!r} goes with backend {manifest.backend!r} and is not listed under `files`"
    return None
