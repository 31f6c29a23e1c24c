"""Export text encoders: transformers folders to one ONNX program and its weights, which stream from file to file.

The modules are transformers' own, traced without their weights. Peak memory is one tensor, plus what the system keeps
mapped of one checkpoint file.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import onnx_ir as ir
import torch
from soda_runtime.signature import ROWS_AXIS
from torch import Tensor, nn

from ..errors import ModelError, UsageError
from ..models.fake import make_fake, with_buffers
from ..models.prompts import PromptCall, PromptModel
from ..models.text import TextModel
from ..trace.fuse import fuse
from ..trace.narrow import narrow
from ..trace.onnx import TracedGraph, fixed_sizes, trace_to_onnx
from ..trace.tidy import TRANSPOSED, tidy
from .builder import GraphBuilder
from .tensor_file import NO_CHANGES, Changes, Checkpoint, TensorSource, open_checkpoint, write_tensors
from .weights import WeightsFile, constant_sources, is_large, weight_sources

log = logging.getLogger(__name__)
TEXT_ENCODER_NAME, TEXT_WEIGHTS_NAME = "text-encoder.onnx", "text-encoder.safetensors"
_RANDOM_STD = 0.02
_PRODUCTS = {"fp32": None, "fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}


def export_text_encoder(
    model: PromptModel, sources: Mapping[str, Path], out: Path, *, precision: str, guided: bool = False,
    empty: Mapping[str, Tensor] = {}, seed: int | None = None, variant: str = "", changes: Changes = NO_CHANGES,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:  # fmt: skip
    """Write TEXT_ENCODER_NAME and TEXT_WEIGHTS_NAME into `out`. Raises ModelError, ExportError, UsageError.

    sources: part -> its transformers folder; a seed stands for random weights. precision: fp32, fp16 or bf16, of the
    matrix products; all else is fp32, and so are products that would leave fp16's range. The program takes the
    model's inputs, int64 [rows, tokens], and gives its ports, float32 [rows, ...]. guided, empty: as PromptCall's.
    changes: part -> Checkpoint's `change`.
    Weights are named by part and module: text_encoder_2.shared.weight. progress(done, total) counts tensors written.
    """
    started = time.perf_counter()
    if precision not in _PRODUCTS:
        raise UsageError(f"precision {precision!r} is unknown; there are {', '.join(_PRODUCTS)}")
    if seed is None and not all(part.name in sources for part in model.models):
        raise UsageError("a text encoder without a folder needs a seed for its random weights")
    parts = {part.name: encoder for part, encoder in model.models.items()}
    checkpoints = {part: open_checkpoint(sources, part, variant, changes) for part in parts if seed is None}
    traced = _trace(model, empty, guided, precision)
    values = traced.weights
    shapes = {_plain(name): _stored_shape(value, name) for value, name in values.items()}
    read: Callable[[str], Tensor] = partial(_random, shapes, seed)
    if seed is None:
        places = {name: _place(name, parts, checkpoints) for name in shapes}
        _check_shapes(places, shapes)
        order = {name: (checkpoint.file_of(key), name) for name, (checkpoint, key) in places.items()}
        values = dict(sorted(values.items(), key=lambda v: order[_plain(v[1])]))

        def read(name: str) -> Tensor:
            checkpoint, key = places[name]
            return checkpoint.read(key)

    constants = [value for value in traced.graph.initializers.values() if is_large(value)]
    tensors: list[TensorSource] = [*weight_sources(values, read, lambda name: False), *constant_sources(constants)]
    write_tensors(out / TEXT_WEIGHTS_NAME, tensors, progress)
    _assemble(model, traced, out)
    kinds = ", ".join(encoder.record.kind for encoder in parts.values())
    size, seconds = (out / TEXT_WEIGHTS_NAME).stat().st_size / 1e6, time.perf_counter() - started
    log.info("text encoder: %s, %.0f MB of weights in %.1f s", kinds, size, seconds)


def _trace(model: PromptModel, empty: Mapping[str, Tensor], guided: bool, precision: str) -> TracedGraph:
    def build(parameter: Callable[[Tensor], Tensor]) -> nn.Module:
        return PromptCall(model, {p.name: m.build(parameter) for p, m in model.models.items()}, empty, guided)

    fake = with_buffers(make_fake(build, torch.float32), build, lambda name: None)
    with fake.mode:
        examples = {name: torch.ones(3, model.tokens(p), dtype=torch.int64) for name, p in model.inputs.items()}
    where = " and ".join(encoder.where for encoder in model.models.values())
    traced = trace_to_onnx(fake.module, examples, dict.fromkeys(examples, (0,)), fake.mode, fake.buffers, where)
    traced = fuse(tidy(traced))
    products = _PRODUCTS[precision]
    if products is None:
        return traced.used()
    kept = {f"{p.name}.": m.record.keep_fp32 for p, m in model.models.items()} if precision == "fp16" else {}
    return narrow(
        traced, products,
        lambda name: any(name.startswith(own) and any(k in name for k in marks) for own, marks in kept.items()),
    )  # fmt: skip


def _assemble(model: PromptModel, traced: TracedGraph, out: Path) -> None:
    builder = GraphBuilder("text-encoder", WeightsFile(out, TEXT_WEIGHTS_NAME))
    given = [builder.input(name, "int64", [ROWS_AXIS, model.tokens(p)]) for name, p in model.inputs.items()]
    known = dict(zip(traced.graph.inputs, given, strict=True))
    outputs = list(traced.graph.outputs)
    builder.emit(outputs, known, traced.weights)
    for (name, shape), value in zip(model.ports.items(), outputs, strict=True):
        builder.output(known[value], name, "float32", [ROWS_AXIS, *shape])
    builder.save(out / TEXT_ENCODER_NAME, "token ids of prompts -> what the denoiser is told")


def _place(name: str, parts: Mapping[str, TextModel], checkpoints: Mapping[str, Checkpoint]) -> tuple[Checkpoint, str]:
    """The checkpoint of a weight's part, and its name there."""
    part, _, own = name.partition(".")
    return checkpoints[part], parts[part].stored_name(own, checkpoints[part].__contains__)


def _check_shapes(places: Mapping[str, tuple[Checkpoint, str]], shapes: Mapping[str, tuple[int, ...]]) -> None:
    for name, (checkpoint, key) in sorted(places.items(), key=lambda p: (p[1][0].file_of(p[1][1]), p[0])):
        found = checkpoint.shape(key)
        if found != shapes[name]:
            where = f"{checkpoint.file_of(key)}: {key!r}"
            raise ModelError(f"{where} is {list(found)}, config.json says {list(shapes[name])}")


def _stored_shape(value: ir.Value, name: str) -> tuple[int, ...]:
    shape = fixed_sizes(value.shape or ())
    return shape[::-1] if name.endswith(TRANSPOSED) else shape


def _plain(name: str) -> str:
    return name.removesuffix(TRANSPOSED)


def _random(shapes: Mapping[str, tuple[int, ...]], seed: int | None, name: str) -> Tensor:
    """Ones for norms' scales, else normal numbers that depend on the seed and the name alone."""
    shape = shapes[name]
    if len(shape) == 1 and name.endswith("weight"):
        return torch.ones(shape)
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    return torch.empty(math.prod(shape)).normal_(0, _RANDOM_STD, generator=generator).reshape(shape)
