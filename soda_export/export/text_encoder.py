"""Export a text encoder: a transformers T5 folder to one ONNX program and its weights, which stream from file to file.

Peak memory is one tensor and one traced block, plus what the system keeps mapped of one checkpoint file.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from soda_runtime.signature import ATTENTION_MASK, EMBEDS, INPUT_IDS, ROWS_AXIS
from torch import Tensor

from ..errors import ModelError, UsageError
from ..models.blocks import TORCH_DTYPES
from ..models.t5 import (
    T5Bias,
    T5Block,
    T5Embed,
    T5FinalNorm,
    T5Spec,
    T5Weight,
    parse_t5_config,
    read_t5_config,
    t5_weights,
)
from .builder import GraphBuilder
from .tensor_file import Checkpoint, TensorSource, write_tensors
from .trace import Example, Fragment, Piece, trace_pieces
from .weights import WeightsFile

log = logging.getLogger(__name__)
TEXT_ENCODER_NAME, TEXT_WEIGHTS_NAME = "text-encoder.onnx", "text-encoder.safetensors"
TOKENIZER_NAME = "tokenizer.json"
_RANDOM_STD = 0.02


def export_text_encoder(
    source: Path | Mapping[str, Any], out: Path, *, max_tokens: int, precision: str, seed: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> T5Spec:  # fmt: skip
    """Write TEXT_ENCODER_NAME and TEXT_WEIGHTS_NAME into `out`. Raises ModelError, ExportError, UsageError.

    source: a transformers folder, or the fields of its config.json with a seed; a seed means random weights.
    precision: fp32, fp16 or bf16. The program takes input_ids and attention_mask int64 [rows, max_tokens] and gives
    embeds float32 [rows, max_tokens, D]. progress(done, total) counts tensors written.
    """
    started = time.perf_counter()
    if precision not in TORCH_DTYPES:
        raise UsageError(f"precision {precision!r} is unknown; there are {', '.join(TORCH_DTYPES)}")
    spec = read_t5_config(source) if isinstance(source, Path) else parse_t5_config(source, "text encoder config")
    weights = t5_weights(spec, max_tokens, precision)
    if seed is not None:
        sources = [_source(weight, partial(_random, weight, seed)) for weight in weights]
    elif isinstance(source, Path):
        sources = _stored(Checkpoint(source, "model"), weights)
    else:
        raise UsageError("a text encoder without a folder needs a seed for its random weights")
    fragments = _trace(spec, max_tokens, precision)
    write_tensors(out / TEXT_WEIGHTS_NAME, sources, progress)
    _assemble(spec, max_tokens, fragments, out)
    size, seconds = (out / TEXT_WEIGHTS_NAME).stat().st_size / 1e6, time.perf_counter() - started
    log.info("text encoder: %d layers, %.0f MB of weights in %.1f s", spec.num_layers, size, seconds)
    return spec


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
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{folder / 'spiece.model'}: transformers cannot load it: {first_line}") from None
    tokenizer.backend_tokenizer.save(str(out / TOKENIZER_NAME))


def _source(weight: T5Weight, make: Callable[[], Tensor]) -> TensorSource:
    return TensorSource(weight.name, weight.dtype, weight.shape, make)


def _stored(checkpoint: Checkpoint, weights: list[T5Weight]) -> list[TensorSource]:
    """All weights, in the order of the checkpoint's files so that each is opened once. Raises ModelError."""
    keys = {weight.name: next(filter(checkpoint.__contains__, weight.keys), weight.keys[0]) for weight in weights}
    in_order = sorted(weights, key=lambda weight: (checkpoint.file_of(keys[weight.name]), weight.name))
    for weight in in_order:
        shape = checkpoint.shape(keys[weight.name])
        if shape != weight.stored:
            where = f"{checkpoint.file_of(keys[weight.name])}: {keys[weight.name]!r}"
            raise ModelError(f"{where} is {list(shape)}, config.json says {list(weight.stored)}")
    return [_source(weight, partial(_read, checkpoint, keys[weight.name], weight)) for weight in in_order]


def _read(checkpoint: Checkpoint, key: str, weight: T5Weight) -> Tensor:
    return weight.convert(checkpoint.read(key))


def _random(weight: T5Weight, seed: int) -> Tensor:
    """Ones for norms, else normal numbers that depend on the seed and the name alone."""
    if len(weight.stored) == 1:
        return torch.ones(weight.shape)
    digest = hashlib.sha256(f"{seed}:{weight.name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    return weight.convert(torch.empty(weight.stored).normal_(0, _RANDOM_STD, generator=generator))


def _trace(spec: T5Spec, max_tokens: int, precision: str) -> dict[str, Fragment]:
    """The pieces, traced without numbers."""
    rows = 3
    tokens = Example(torch.zeros(rows, max_tokens, dtype=torch.int64), (0,))
    x = Example(torch.zeros(rows, max_tokens, spec.width), (0,))
    bias = Example(torch.zeros(rows, spec.num_heads, max_tokens, max_tokens), (0,))
    return trace_pieces({
        "embed": Piece(T5Embed(spec, precision).eval(), (tokens,)),
        "bias": Piece(T5Bias(spec, max_tokens).eval(), (tokens,)),
        "block": Piece(T5Block(spec, precision).eval(), (x, bias)),
        "final_norm": Piece(T5FinalNorm(spec).eval(), (x,)),
    })  # fmt: skip


def _assemble(spec: T5Spec, max_tokens: int, fragments: Mapping[str, Fragment], out: Path) -> None:
    builder = GraphBuilder("text-encoder", WeightsFile(out, TEXT_WEIGHTS_NAME))
    ids = builder.input(INPUT_IDS, "int64", [ROWS_AXIS, max_tokens])
    mask = builder.input(ATTENTION_MASK, "int64", [ROWS_AXIS, max_tokens])
    x = builder.splice(fragments["embed"], [ids], prefix="embed.")
    bias = builder.splice(fragments["bias"], [mask], prefix="bias.")
    for layer in range(spec.num_layers):
        x = builder.splice(fragments["block"], [x, bias], prefix=f"blocks.{layer}.")
    embeds = builder.splice(fragments["final_norm"], [x], prefix="final_norm.")
    builder.output(embeds, EMBEDS, "float32", [ROWS_AXIS, max_tokens, spec.width])
    builder.save(out / TEXT_ENCODER_NAME)
