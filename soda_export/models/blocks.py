"""What the hand-written text encoder shares with its exporter: torch's types by name, and heads."""

from __future__ import annotations

import torch
from torch import Tensor

TORCH_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """[R, T, D] -> [R, heads, T, D / heads]."""
    return x.reshape(*x.shape[:2], num_heads, x.shape[-1] // num_heads).transpose(1, 2)
