"""Random text encoders and tokenizers in the layout of a repository, and what is exported of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from soda_runtime.text import PromptTokenizer
from torch import Tensor

from soda_export.export.encode import encode_texts
from soda_export.export.text_encoder import export_text_encoder
from soda_export.export.tokenizer import export_tokenizer
from soda_export.models.prompts import PromptModel
from soda_export.models.recipe import TextPart, TextRecipe
from soda_export.models.text import read_text_model

T, WEIGHTS = 20, "model.safetensors"
CONFIG = {
    "model_type": "t5", "vocab_size": 60, "d_model": 32, "d_kv": 12, "num_heads": 4, "d_ff": 48, "num_layers": 2,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 12,
}  # fmt: skip
PART = TextPart("text_encoder", "tokenizer", tokens=T)
MASKED = TextPart("text_encoder", "tokenizer", tokens=T, mask="attention_mask")


def prompt_model(source: Path | dict[str, Any], part: TextPart, **ports: str) -> PromptModel:
    """A recipe of single outputs of one encoder. ports: port -> output."""
    model = read_text_model(source)
    recipe = TextRecipe({port: ((getattr(part, output),),) for port, output in ports.items()})
    shapes = {name: (T, model.width("last")) for name in ports}
    shapes |= {name: (model.width("pooled"),) for name, output in ports.items() if output == "pooled"}
    return PromptModel(recipe, {part: model}, T, shapes)


def export_t5(source: Path | dict[str, Any], out: Path, precision: str = "fp32", seed: int | None = None) -> None:
    sources = {PART.name: source} if isinstance(source, Path) else {}
    export_text_encoder(prompt_model(source, MASKED, embeds="last"), sources, out, precision=precision, seed=seed)


def encode(source: Path, texts: list[str]) -> dict[str, Tensor]:
    tokenizer = PromptTokenizer(source / "tokenizer.json", T)
    model = prompt_model(source, MASKED, embeds="last")
    return encode_texts(model, {PART.name: source}, lambda part, given: tokenizer(list(given)), texts, [])[0]


def save_t5(folder: Path, kind: str, max_shard_size: str = "1GB") -> Any:
    """A random T5EncoderModel in transformers' format."""
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    settings = {key: value for key, value in CONFIG.items() if key != "model_type"}
    model = T5EncoderModel(T5Config(**settings, feed_forward_proj=kind)).eval()
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    return model


def reshape_table(folder: Path) -> None:
    stored = load_file(folder / "model.safetensors")
    stored["shared.weight"] = torch.zeros(61, 32)
    save_file(stored, folder / "model.safetensors")


def save_tokenizer(folder: Path) -> None:
    from transformers import T5Tokenizer

    T5Tokenizer(vocab=PIECES, extra_ids=0).save_pretrained(folder / "tokenizer")
    export_tokenizer(folder / "tokenizer", folder / "tokenizer.json")


PIECES = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -30.0), ("▁", -6.0), ("▁red", -2.0), ("r", -12.0), ("e", -12.0)]
