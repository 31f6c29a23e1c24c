"""STDiT3 with weights and inputs that follow from names alone, so that a release's run can be told from its outputs."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Case:
    """config: of the module. latents: [T, H, W]. height, width: of the video in pixels. lengths: tokens of each row's
    text; the last row is an unconditional one."""

    config: dict[str, Any]
    latents: tuple[int, int, int]
    height: int
    width: int
    fps: int
    lengths: tuple[int, ...]


_TINY = {
    "hidden_size": 48, "depth": 2, "num_heads": 2, "caption_channels": 16, "model_max_length": 8,
    "class_dropout_prob": 0.0,
}  # fmt: skip
CASES = {
    "tiny": Case(_TINY, (3, 8, 12), 64, 96, 24, (8, 3, 3)),
    "odd": Case({**_TINY, "qk_norm": False, "pred_sigma": False}, (5, 6, 5), 240, 426, 8, (5, 5)),
    "wide": Case({"depth": 1, "class_dropout_prob": 0.0, "caption_channels": 64}, (2, 4, 6), 480, 854, 24, (17, 17)),
}
"""odd: patches do not tile the latents. wide: one layer of the true width, with texts of the true length."""


def drawn(name: str, *shape: int) -> Tensor:
    """Normal numbers, which NumPy promises never to change."""
    numbers = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    return torch.from_numpy(numbers.astype(np.float32))


def fill(model: nn.Module) -> None:
    """Weights of every kind around what training gives: matrices that keep the size of what they take."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name.startswith(("rope", "pos_embed")):
            continue
        numbers = drawn(name, *tensor.shape)
        fan_in = tensor[0].numel() if tensor.ndim > 1 else 0
        scale = fan_in**-0.5 if fan_in and "table" not in name and "y_embedding" not in name else 0.2
        tensor.data.copy_(numbers * scale + (1.0 if tensor.ndim == 1 and name.endswith("weight") else 0.0))


def inputs(case: Case) -> dict[str, Tensor]:
    """Arguments of our forward, [R, ...]."""
    rows, tokens = len(case.lengths), case.config.get("model_max_length", 300)
    mask = (torch.arange(tokens) < torch.tensor(case.lengths)[:, None]).long()
    return {
        "hidden_states": drawn("latents", rows, 4, *case.latents),
        "timestep": torch.linspace(901.5, 33.0, rows),
        "encoder_hidden_states": drawn("texts", rows, tokens, case.config["caption_channels"]),
        "encoder_attention_mask": mask,
        "fps": torch.tensor([float(case.fps)]), "height": torch.tensor([float(case.height)]),
        "width": torch.tensor([float(case.width)]),
        "is_negative": torch.tensor([0.0] * (rows - 1) + [1.0]),
    }  # fmt: skip
