"""Read manifests of format versions 2 to 4: the same bundle in the terms of the current version.

Those models were layers of equal modules, of one width and one number of tokens, conditioned on labels or on text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from .manifest import (
    Arena,
    EmbeddingPort,
    FileEntry,
    ImageFinish,
    LabelPort,
    Manifest,
    MaskPort,
    Model,
    PreparedTensor,
    PrepareProgram,
    Program,
    RequestPort,
    Sampler,
    Slot,
    Step,
    TokenIdsPort,
    TokenizerEntry,
    TokenMaskPort,
)
from .signature import AGE_MARK, ATTENTION_MASK, DTYPES, EMBEDS, INPUT_IDS, LABELS, slot_bytes
from .strict_json import StrictJsonError, decode

_STACK = "stack"
_MODULE_NAME = re.compile(r"[a-z_]{1,32}")
_AGED = re.compile(r"([^.]*\.[^.]*)\.([12])")
_MOST = {"model.num_layers": 1000, "model.num_tokens": 1 << 20, "model.width": 1 << 16, "len(modules)": 8}
_MOST |= {"len(prepare)": 8, "len(weights)": 8, "arena.slot_bytes": 1 << 40}
_MOST |= {"rows_per_sample": 2, "condition.max_tokens": 1 << 12, "condition.embed_width": 1 << 16}


@dataclass(frozen=True)
class LabelCondition:
    """A request gives class labels 0 .. num_classes - 1; null_class is the label of the unconditional rows."""

    kind: Literal["label"]
    num_classes: int
    null_class: int


@dataclass(frozen=True)
class TextCondition:
    """A request gives prompts, or their embeddings [max_tokens, embed_width] and masks [max_tokens].

    tokenizer: file name of a tokenizer.json, "" where the bundle takes embeddings alone.
    """

    kind: Literal["text"]
    max_tokens: int
    embed_width: int
    tokenizer: str


@dataclass(frozen=True)
class ModelV4:
    """What was compiled: `num_layers` layers of `modules`, whose outputs are [num_tokens, width]."""

    name: str
    family: str
    hash: str
    latent_shape: tuple[int, int, int]
    num_layers: int
    modules: tuple[str, ...]
    num_tokens: int
    width: int
    condition: LabelCondition | TextCondition
    output: Literal["pixels", "latents"]


@dataclass(frozen=True)
class PrepareProgramV4:
    """A program that runs before the steps."""

    file: str
    inputs: tuple[str, ...]
    tables: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class FinishProgramV4:
    """A program that makes an image."""

    file: str
    shape: tuple[int, int, int]


@dataclass(frozen=True)
class ProgramV4:
    """One step program. Slots are `<layer>.<module>` or `<num_layers>.stack`; reads may end in `.1` or `.2`."""

    file: str
    inputs: tuple[str, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    flops: int


@dataclass(frozen=True)
class ArenaV4:
    """The cache buffer, of slots of one size."""

    bytes: int
    lower_bound_bytes: int
    naive_bytes: int
    slot_bytes: int


@dataclass(frozen=True)
class ManifestV4:
    """manifest.json of version 4, whole."""

    format: str
    version: int
    builder: str
    backend: str
    precision: Literal["fp32", "fp16", "bf16"]
    model: ModelV4
    sampler: Sampler
    rows_per_sample: int
    guidance: float
    flops_ratio: float
    forecasts: int
    tensors: tuple[PreparedTensor, ...]
    prepare: tuple[PrepareProgramV4, ...]
    programs: tuple[ProgramV4, ...]
    baseline_program: int
    steps: tuple[Step, ...]
    finish: tuple[FinishProgramV4, ...]
    arena: ArenaV4
    weights: tuple[str, ...]
    tables: str
    files: dict[str, FileEntry]


def upgrade_v4(value: dict[str, Any]) -> Manifest:
    """Decode a parsed manifest of version 2, 3 or 4 strictly. Raises StrictJsonError."""
    if value["version"] == 2:
        value = _with_key(value, "$", "forecasts", 0)
    if value["version"] < 4 and isinstance(value.get("sampler"), dict):  # what else it is, decoding says
        value = {**value, "sampler": _with_key(value["sampler"], "$.sampler", "fitted", False)}
    return upgraded(decode(ManifestV4, value))


def upgraded(old: ManifestV4) -> Manifest:
    """The manifest in the current version's terms. Raises StrictJsonError for numbers that have none there."""
    model = old.model
    for name, number in _numbers(old):
        if not 1 <= number <= _MOST[name]:
            raise StrictJsonError(f"{name}={number!r:.40} is outside 1 .. {_MOST[name]}")
    if len(set(model.modules)) != len(model.modules) or not all(_MODULE_NAME.fullmatch(m) for m in model.modules):
        raise StrictJsonError("model.modules has a name twice, or one that is not plain")
    names = [f"{layer}.{module}" for layer in range(model.num_layers) for module in model.modules]
    names.append(f"{model.num_layers}.{_STACK}")
    slot = Slot("", (model.num_tokens, model.width), DTYPES[old.precision])
    if old.arena.slot_bytes != slot_bytes(slot, old.rows_per_sample):
        found = f"{math.prod(slot.shape)} values a row"
        raise StrictJsonError(f"arena.slot_bytes={old.arena.slot_bytes} is not one slot of {found}, aligned")
    ports, tokenizers = _ports(model.condition)
    weights = old.weights[0] if len(old.weights) == 1 else ""
    return Manifest(
        old.format, old.version, old.builder, old.backend, old.precision,
        Model(model.name, model.family, model.hash, model.latent_shape, model.output, len(names)),
        ports, tokenizers, old.sampler, old.rows_per_sample, old.guidance, old.flops_ratio, old.forecasts, old.tensors,
        tuple(PrepareProgram(p.file, weights, p.inputs, p.tables, p.outputs) for p in old.prepare),
        tuple(replace(slot, name=name) for name in names),
        tuple(Program(p.file, weights, p.inputs, _aged(p.reads), p.writes, p.flops) for p in old.programs),
        old.baseline_program, old.steps,
        tuple(ImageFinish(p.file, weights, "image", p.shape) for p in old.finish),
        Arena(old.arena.bytes, old.arena.lower_bound_bytes, old.arena.naive_bytes),
        old.weights, old.tables, old.files,
    )  # fmt: skip


def _numbers(old: ManifestV4) -> Iterator[tuple[str, int]]:
    yield "model.num_layers", old.model.num_layers
    yield "model.num_tokens", old.model.num_tokens
    yield "model.width", old.model.width
    yield "len(modules)", len(old.model.modules)
    yield "len(prepare)", len(old.prepare)
    yield "len(weights)", len(old.weights)
    yield "rows_per_sample", old.rows_per_sample
    yield "arena.slot_bytes", old.arena.slot_bytes
    if isinstance(old.model.condition, TextCondition):
        yield "condition.max_tokens", old.model.condition.max_tokens
        yield "condition.embed_width", old.model.condition.embed_width


def _ports(condition: LabelCondition | TextCondition) -> tuple[tuple[RequestPort, ...], tuple[TokenizerEntry, ...]]:
    """What a request gives: labels, or embeddings with a mask and perhaps the tokens that they are made of."""
    if isinstance(condition, LabelCondition):
        return (LabelPort(LABELS, "int64", (), "label", condition.num_classes, condition.null_class),), ()
    tokens = (condition.max_tokens,)
    embeds = EmbeddingPort(EMBEDS, "float32", (condition.max_tokens, condition.embed_width), "embedding")
    if not condition.tokenizer:
        return (embeds, MaskPort(ATTENTION_MASK, "int64", tokens, "mask")), ()
    ids = TokenIdsPort(INPUT_IDS, "int64", tokens, "token_ids", 0)
    mask = TokenMaskPort(ATTENTION_MASK, "int64", tokens, "token_mask", 0)
    return (embeds, mask, ids), (TokenizerEntry(condition.tokenizer, condition.max_tokens, "lower-strip", -1),)


def _aged(reads: tuple[str, ...]) -> tuple[str, ...]:
    for name in reads:
        if AGE_MARK in name:
            raise StrictJsonError(f"{name!r:.80} is no slot")
    return tuple(_AGED.sub(r"\1@\2", name) if _AGED.fullmatch(name) else name for name in reads)


def _with_key(value: dict[str, Any], where: str, key: str, default: object) -> dict[str, Any]:
    if key in value:
        raise StrictJsonError(f"{where}: unknown key {key!r}")
    return {**value, key: default}
