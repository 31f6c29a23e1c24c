"""The trained PixArt of `shapes` as the start of an Open-Sora: what draws a frame, and layers that look along time.

As Open-Sora began from PixArt (arXiv 2412.20404, section 3): its spatial blocks draw frames at once, its temporal ones
leave everything as it is until they have learned something.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import PixArtTransformer2DModel
from torch import Tensor, nn
from training import BUILTIN_FOLDER

from soda_export.models.own.stdit import STDiT3

_OFFSETS = (-1, 1, -2, 2, -3, 3)
"""The frame that each head of a temporal block looks at first, from its own."""
_TELLING, _SHARPNESS = 6, 16.0
"""The first frequencies tell near frames apart; what a head's logit is at its offset, times the root of its width."""


class Untouched(nn.Module):
    """In the place of a temporal block while single frames are drawn."""

    def forward(self, x: Tensor, *_: Any) -> Tensor:
        return x


@torch.no_grad()
def start_from_shapes(model: STDiT3) -> None:
    """model: of the width, heads and layers of `shapes`, with no norm of queries and keys."""
    painter = PixArtTransformer2DModel.from_pretrained(BUILTIN_FOLDER / "shapes/transformer", torch_dtype=torch.float32)
    known = painter.state_dict()

    def copy(layer: nn.Module, *sources: str) -> None:
        for name, parameter in layer.named_parameters():
            parts = [known[f"{source}.{name}"] for source in sources]
            parameter.copy_(torch.cat(parts).reshape(parameter.shape))

    copy(model.x_embedder.proj, "pos_embed.proj")
    clock = "adaln_single.emb.timestep_embedder"
    copy(model.t_embedder.mlp[0], f"{clock}.linear_1")
    copy(model.t_embedder.mlp[2], f"{clock}.linear_2")
    copy(model.t_block[1], "adaln_single.linear")
    copy(model.y_embedder.y_proj.fc1, "caption_projection.linear_1")
    copy(model.y_embedder.y_proj.fc2, "caption_projection.linear_2")
    copy(model.final_layer.linear, "proj_out")
    model.final_layer.scale_shift_table.copy_(known["scale_shift_table"])
    _silence(model.fps_embedder.mlp[2])
    for number, (spatial, temporal) in enumerate(zip(model.spatial_blocks, model.temporal_blocks, strict=True)):
        own = f"transformer_blocks.{number}"
        for block in (spatial, temporal):
            copy(block.attn.qkv, *(f"{own}.attn1.to_{part}" for part in "qkv"))
            copy(block.attn.proj, f"{own}.attn1.to_out.0")
            copy(block.cross_attn.q_linear, f"{own}.attn2.to_q")
            copy(block.cross_attn.kv_linear, f"{own}.attn2.to_k", f"{own}.attn2.to_v")
            copy(block.cross_attn.proj, f"{own}.attn2.to_out.0")
            copy(block.mlp.fc1, f"{own}.ff.net.0.proj")
            copy(block.mlp.fc2, f"{own}.ff.net.2")
            block.scale_shift_table.copy_(known[f"{own}.scale_shift_table"])
        _look_aside(temporal.attn.qkv, model.rope.freqs)
        for layer in (temporal.attn.proj, temporal.cross_attn.proj, temporal.mlp.fc2):
            _silence(layer)


def _silence(layer: nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def _look_aside(qkv: nn.Linear, frequencies: Tensor) -> None:
    """Biases of queries and keys whose logits are greatest for the frame at the head's offset (rotary embedding tells
    frames apart by their distance alone: without a preference to start with, all of them look the same)."""
    width, head_width = qkv.in_features, 2 * len(frequencies)
    query, key = (qkv.bias[i : i + width].unflatten(0, (-1, head_width)) for i in (0, width))
    qkv.weight[: 2 * width] *= 0.3
    size = _SHARPNESS**0.5
    for head in range(len(query)):
        turn = _OFFSETS[head % len(_OFFSETS)] * frequencies[:_TELLING]
        query[head, : 2 * _TELLING : 2], query[head, 1 : 2 * _TELLING : 2] = size * turn.cos(), size * turn.sin()
        key[head, : 2 * _TELLING : 2], key[head, 1 : 2 * _TELLING : 2] = size, 0.0
