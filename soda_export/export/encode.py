"""Encode texts with an exported text encoder, in torch and one block at a time, so that any size fits in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from soda_runtime.text import PromptTokenizer
from torch import Tensor, nn

from ..models.t5 import T5Bias, T5Block, T5Embed, T5FinalNorm, T5Spec
from .text_encoder import TEXT_WEIGHTS_NAME, TOKENIZER_NAME


@torch.no_grad()
def encode_texts(
    folder: Path, spec: T5Spec, texts: Sequence[str], max_tokens: int, precision: str
) -> tuple[Tensor, Tensor]:
    """Embeddings float32 [n, T, D] and masks int64 [n, T]. folder: where export_text_encoder wrote."""
    ids, mask = (torch.from_numpy(a) for a in PromptTokenizer(folder / TOKENIZER_NAME, max_tokens)(texts))
    with safe_open(folder / TEXT_WEIGHTS_NAME, framework="pt") as file:
        names = list(file.keys())

        def loaded(piece: nn.Module, prefix: str) -> nn.Module:
            state = {name.removeprefix(prefix): file.get_tensor(name) for name in names if name.startswith(prefix)}
            piece.load_state_dict(state, assign=True)
            return piece.eval()

        x = loaded(T5Embed(spec, precision), "embed.")(ids)
        bias = loaded(T5Bias(spec, max_tokens), "bias.")(mask)
        for layer in range(spec.num_layers):
            x = loaded(T5Block(spec, precision), f"blocks.{layer}.")(x, bias)
        return loaded(T5FinalNorm(spec), "final_norm.")(x), mask
