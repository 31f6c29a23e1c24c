"""Export a text encoder: a transformers folder to one ONNX program and its weights, which stream from file to file.

The module is transformers' own, traced without its weights. Peak memory is one tensor, plus what the system keeps
mapped of one checkpoint file.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from soda_runtime.signature import ATTENTION_MASK, INPUT_IDS, ROWS_AXIS
from torch import Tensor

from ..errors import ModelError, UsageError, first_line
from ..models.text import TextCall, TextModel, read_text_model
from ..trace.fuse import fuse
from ..trace.narrow import narrow
from ..trace.onnx import TracedGraph, fixed_sizes, trace_to_onnx
from ..trace.tidy import TRANSPOSED, tidy
from .builder import GraphBuilder
from .tensor_file import Checkpoint, TensorSource, write_tensors
from .weights import WeightsFile, constant_sources, is_large, weight_sources

log = logging.getLogger(__name__)
TEXT_ENCODER_NAME, TEXT_WEIGHTS_NAME = "text-encoder.onnx", "text-encoder.safetensors"
TOKENIZER_NAME = "tokenizer.json"
_RANDOM_STD = 0.02
_PRODUCTS = {"fp32": None, "fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}


def export_text_encoder(
    source: Path | Mapping[str, Any], out: Path, *, max_tokens: int, precision: str, seed: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, tuple[int, ...]]:  # fmt: skip
    """Write TEXT_ENCODER_NAME and TEXT_WEIGHTS_NAME into `out`. Raises ModelError, ExportError, UsageError.

    source: a transformers folder, or the fields of its config.json with a seed; a seed means random weights.
    precision: fp32, fp16 or bf16, of the matrix products; all else is fp32, and so are products that would leave fp16's
    range. The program takes input_ids and, where the pipeline gives the encoder one, attention_mask, both int64
    [rows, max_tokens]; its outputs are float32 [rows, ...], by name with the shape of one row, and are returned so.
    progress(done, total) counts tensors written.
    """
    started = time.perf_counter()
    if precision not in _PRODUCTS:
        raise UsageError(f"precision {precision!r} is unknown; there are {', '.join(_PRODUCTS)}")
    if seed is None and not isinstance(source, Path):
        raise UsageError("a text encoder without a folder needs a seed for its random weights")
    model = read_text_model(source)
    read: Callable[[str], Tensor]
    if seed is None:
        assert isinstance(source, Path)
        checkpoint = Checkpoint(source, "model")
    traced = _trace(model, max_tokens, precision)
    values = traced.weights
    shapes = {name.removesuffix(TRANSPOSED): _stored_shape(value, name) for value, name in values.items()}
    if seed is None:
        keys = {name: model.stored_name(name, checkpoint.__contains__) for name in shapes}
        _check_shapes(checkpoint, keys, shapes)
        values = dict(sorted(values.items(), key=lambda v: (checkpoint.file_of(keys[_plain(v[1])]), v[1])))

        def read(name: str) -> Tensor:
            return checkpoint.read(keys[name])
    else:
        read = partial(_random, shapes, seed)
    constants = [value for value in traced.graph.initializers.values() if is_large(value)]
    sources: list[TensorSource] = [*weight_sources(values, read, lambda name: False), *constant_sources(constants)]
    write_tensors(out / TEXT_WEIGHTS_NAME, sources, progress)
    made = _assemble(model, traced, max_tokens, out)
    size, seconds = (out / TEXT_WEIGHTS_NAME).stat().st_size / 1e6, time.perf_counter() - started
    log.info("text encoder: %s, %.0f MB of weights in %.1f s", model.record.kind, size, seconds)
    return made


def export_tokenizer(folder: Path, out: Path) -> None:
    """Write TOKENIZER_NAME into `out`: the folder's own, or made from its spiece.model. Raises ModelError."""
    if (folder / TOKENIZER_NAME).is_file():
        shutil.copyfile(folder / TOKENIZER_NAME, out / TOKENIZER_NAME)
        return
    if not (folder / "spiece.model").is_file():
        raise ModelError(f"{folder}: no tokenizer; a T5 tokenizer folder has {TOKENIZER_NAME} or spiece.model")
    if importlib.util.find_spec("sentencepiece") is None:
        raise ModelError(f"{folder}: making {TOKENIZER_NAME} of spiece.model needs `pip install sentencepiece`")
    from transformers import T5Tokenizer

    try:
        tokenizer = T5Tokenizer.from_pretrained(folder)
    except Exception as error:
        raise ModelError(f"{folder / 'spiece.model'}: transformers cannot load it: {first_line(error)}") from None
    tokenizer.backend_tokenizer.save(str(out / TOKENIZER_NAME))


def _trace(model: TextModel, max_tokens: int, precision: str) -> TracedGraph:
    fake = model.fake()
    with fake.mode:
        examples = {name: torch.ones(3, max_tokens, dtype=torch.int64) for name in _inputs(model)}
    buffers = {f"model.{name}": value for name, value in fake.buffers.items()}
    call = TextCall(fake.module, model.record)
    traced = trace_to_onnx(call, examples, dict.fromkeys(examples, (0,)), fake.mode, buffers, model.where)
    traced = fuse(tidy(traced.renamed(lambda name: name.removeprefix("model."))))
    products = _PRODUCTS[precision]
    if products is None:
        return traced.used()
    kept = model.record.keep_fp32 if precision == "fp16" else ()
    return narrow(traced, products, lambda name: any(part in name for part in kept))


def _assemble(model: TextModel, traced: TracedGraph, max_tokens: int, out: Path) -> dict[str, tuple[int, ...]]:
    builder = GraphBuilder("text-encoder", WeightsFile(out, TEXT_WEIGHTS_NAME))
    given = [builder.input(name, "int64", [ROWS_AXIS, max_tokens]) for name in _inputs(model)]
    known = dict(zip(traced.graph.inputs, given, strict=True))
    outputs = list(traced.graph.outputs)
    builder.emit(outputs, known, traced.weights)
    shapes = {}
    for name, value in zip(model.record.outputs, outputs, strict=True):
        shapes[name] = fixed_sizes(list(value.shape or [])[1:])
        builder.output(known[value], name, "float32", [ROWS_AXIS, *shapes[name]])
    builder.save(out / TEXT_ENCODER_NAME)
    return shapes


def _inputs(model: TextModel) -> tuple[str, ...]:
    return (INPUT_IDS, ATTENTION_MASK) if model.record.has_mask else (INPUT_IDS,)


def _check_shapes(checkpoint: Checkpoint, keys: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> None:
    for name in sorted(keys, key=lambda name: (checkpoint.file_of(keys[name]), name)):
        found = checkpoint.shape(keys[name])
        if found != shapes[name]:
            where = f"{checkpoint.file_of(keys[name])}: {keys[name]!r}"
            raise ModelError(f"{where} is {list(found)}, config.json says {list(shapes[name])}")


def _stored_shape(value: ir.Value, name: str) -> tuple[int, ...]:
    shape = fixed_sizes(value.shape or ())
    return shape[::-1] if name.endswith(TRANSPOSED) else shape


def _plain(name: str) -> str:
    return name.removesuffix(TRANSPOSED)


def _random(shapes: Mapping[str, tuple[int, ...]], seed: int, name: str) -> Tensor:
    """Ones for norms' scales, else normal numbers that depend on the seed and the name alone."""
    shape = shapes[name]
    if len(shape) == 1 and name.endswith("weight"):
        return torch.ones(shape)
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    return torch.empty(math.prod(shape)).normal_(0, _RANDOM_STD, generator=generator).reshape(shape)
