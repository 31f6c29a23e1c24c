"""Encode texts with a model's own text encoder in fp32, its weights mapped from their files, so that any size fits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from soda_runtime.text import PromptTokenizer
from torch import Tensor, nn

from ..models.text import TextCall, read_text_model
from .tensor_file import Checkpoint
from .text_encoder import TOKENIZER_NAME


@torch.no_grad()
def encode_texts(source: Path, tokenizer: Path, texts: Sequence[str], max_tokens: int) -> dict[str, Tensor]:
    """Outputs of the encoder by name, float32 [n, ...], and `attention_mask` int64 [n, T].

    source: a transformers folder. tokenizer: a folder with TOKENIZER_NAME. Tensors are mapped, not read; what is not
    stored in float32 is widened a module at a time, while it computes.
    """
    ids, mask = (torch.from_numpy(a) for a in PromptTokenizer(tokenizer / TOKENIZER_NAME, max_tokens)(texts))
    model = read_text_model(source)
    checkpoint, open_files = Checkpoint(source, "model"), dict[Path, Checkpoint]()

    def read(name: str) -> Tensor:
        key = model.stored_name(name, checkpoint.__contains__)
        path = checkpoint.file_of(key)
        if path not in open_files:
            open_files[path] = Checkpoint(source, "model")
        return open_files[path].read(key)

    module = model.with_weights(read)
    for part in module.modules():
        if any(own is not None and own.dtype != torch.float32 for own in part._parameters.values()):
            _widen_while_computing(part)
    made = TextCall(module, model.record)(ids, mask)  # a record without a mask leaves it
    return {**dict(zip(model.record.outputs, (m.float() for m in made), strict=True)), "attention_mask": mask}


def _widen_while_computing(module: nn.Module) -> None:
    """Between its calls, float32 without memory stands for each parameter: others look at its type."""
    stored = {name: own for name, own in module._parameters.items() if own is not None}
    stand_ins = {name: nn.Parameter(torch.zeros(()).expand(own.shape), False) for name, own in stored.items()}

    def widen(module: nn.Module, args: Any) -> None:
        module._parameters.update({name: nn.Parameter(own.float(), False) for name, own in stored.items()})

    def drop(module: nn.Module, args: Any, output: Any) -> None:
        module._parameters.update(stand_ins)

    module._parameters.update(stand_ins)
    module.register_forward_pre_hook(widen)
    module.register_forward_hook(drop)
