"""Encode texts with a model's own text encoders in fp32, weights mapped from their files, so that any size fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..models.prompts import PromptCall, PromptModel
from ..models.recipe import TextPart
from ..models.text import TextModel
from .tensor_file import NO_CHANGES, Changes, Checkpoint, open_checkpoint

Rows = dict[str, Tensor]
Tokenize = Callable[[TextPart, Sequence[str]], tuple[NDArray[np.int64], NDArray[np.int64]]]


@torch.no_grad()
def encode_texts(
    model: PromptModel, sources: Mapping[str, Path], tokenize: Tokenize, texts: Sequence[str], negative: Sequence[str],
    variant: str = "", changes: Changes = NO_CHANGES,
) -> tuple[Rows, Rows]:
    """The ports of texts and of negative prompts: float32 [n, ...], and masks int64 [n, T].

    sources: part -> its transformers folder; changes: part -> Checkpoint's `change`. tokenize(part, texts): ids and
    mask. Tensors are mapped, not read; what is not stored in float32 is widened a module at a time, while it computes.
    """
    given: list[Tensor] = []
    rows: dict[str, Tensor] = {}
    for part in model.models:
        ids, mask = (torch.from_numpy(values) for values in tokenize(part, [*texts, *negative]))
        given += [ids, mask] if part.mask else [ids]
        rows |= {part.mask: mask} if part.mask else {}
    empty = {part.name: torch.from_numpy(tokenize(part, [""])[0][0]) for part in model.models}
    opened = {part: partial(open_checkpoint, sources, part.name, variant, changes) for part in model.models}
    encoders = {part.name: _mapped(encoder, opened[part]) for part, encoder in model.models.items()}
    call = PromptCall(model, encoders, empty, guided=True)
    made = call.some_negative(torch.arange(len(given[0])) >= len(texts), *given)
    rows |= dict(zip(model.ports, (value.float() for value in made), strict=True))
    count = len(texts)
    return {name: value[:count] for name, value in rows.items()}, {name: value[count:] for name, value in rows.items()}


def _mapped(model: TextModel, opened: Callable[[], Checkpoint]) -> nn.Module:
    checkpoint, open_files = opened(), dict[Path, Checkpoint]()

    def read(name: str) -> Tensor:
        key = model.stored_name(name, checkpoint.__contains__)
        path = checkpoint.file_of(key)
        if path not in open_files:
            open_files[path] = opened()
        return open_files[path].read(key)

    module = model.with_weights(read)
    for part in module.modules():
        if any(own is not None and own.dtype != torch.float32 for own in part._parameters.values()):
            _widen_while_computing(part)
    return module


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
