"""Modules that the transformer families share, in the layout of the graphs: plain tensor code, traced once each."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from .denoiser import DenoiserModule
from .spec import DenoiserSpec

TORCH_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
ENTRIES = 6
_FIRST_ENTRY = {"attn": 0, "ff": 3}

class Linear(nn.Module):
    """x @ weight + bias with weight [in, out]: traces to MatMul + Add with no transpose to fold."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().contiguous(), requires_grad=False)
        self.bias = nn.Parameter(weight.new_zeros(weight.shape[1]) if bias is None else bias.detach().clone(), False)

    @classmethod
    def of(cls, *layers: nn.Linear) -> Linear:
        """Several nn.Linear side by side as one GEMM."""
        biases: list[Tensor] = [
            layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias for layer in layers
        ]
        return cls(torch.cat([layer.weight.detach().t() for layer in layers], dim=1), torch.cat(biases))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """LayerNorm without weights, then adaLN's affine map. Engines and torch reduce in fp32 whatever x's type."""
    return F.layer_norm(x, (x.shape[-1],), eps=eps) * (1 + scale) + shift


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """[R, T, D] -> [R, heads, T, D / heads]."""
    return x.reshape(*x.shape[:2], num_heads, x.shape[-1] // num_heads).transpose(1, 2)


class SelfAttention(DenoiserModule):
    """Self-attention behind an adaLN, with fused query, key and value projections."""

    def __init__(self, attention: Any, num_heads: int, eps: float) -> None:
        super().__init__()
        self.num_heads, self.eps = num_heads, eps
        self.qkv = Linear.of(attention.to_q, attention.to_k, attention.to_v)
        self.out = Linear.of(attention.to_out[0])

    def normalize(self, x: Tensor, *conditions: Tensor) -> Tensor:
        shift, scale = conditions
        return modulated_norm(x, shift, scale, self.eps)

    def forward(self, inputs: Tensor, *context: Tensor) -> Tensor:
        return self._attend(*self.qkv(inputs).chunk(3, dim=-1))

    def kept(self, inputs: Tensor, kept: Tensor, *context: Tensor) -> Tensor:
        """Queries of the kept tokens alone attend to the keys and values of all tokens."""
        width = inputs.shape[-1]
        query = kept @ self.qkv.weight[:, :width] + self.qkv.bias[:width]
        both = inputs @ self.qkv.weight[:, width:] + self.qkv.bias[width:]
        return self._attend(query, *both.chunk(2, dim=-1))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key, value = (split_heads(t, self.num_heads) for t in (query, key, value))
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return self.out(attended)  # type: ignore[no-any-return]


class FeedForward(DenoiserModule):
    """Token-wise MLP behind an adaLN, so the kept tokens need no others."""

    def __init__(self, ff: Any, eps: float) -> None:
        super().__init__()
        self.eps = eps
        activation = ff.net[0]
        self.approximate = activation.approximate
        self.up, self.down = Linear.of(activation.proj), Linear.of(ff.net[2])

    def normalize(self, x: Tensor, *conditions: Tensor) -> Tensor:
        shift, scale = conditions
        return modulated_norm(x, shift, scale, self.eps)

    def forward(self, inputs: Tensor, *context: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(inputs), approximate=self.approximate))  # type: ignore[no-any-return]

    def kept(self, inputs: Tensor, kept: Tensor, *context: Tensor) -> Tensor:
        return self(kept)  # type: ignore[no-any-return]


class GatedResidual(nn.Module):
    """adaLN-Zero's gated sum."""

    def forward(self, x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
        return x + gate * y


class PlainResidual(nn.Module):
    """A sum without a gate."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class Embed(nn.Module):
    """Patches to tokens, plus the fixed position embedding. A convolution of stride = kernel is one GEMM."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.pos_embed = model.pos_embed

    def forward(self, latents: Tensor) -> Tensor:
        return self.pos_embed(latents)  # type: ignore[no-any-return]


class Head(nn.Module):
    """Final adaLN, projection and unpatchify; all channels, those of a learned variance included."""

    def __init__(self, project: nn.Linear, eps: float, patch: int, latent_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.eps, self.patch, self.latent_shape = eps, patch, latent_shape
        self.out_channels = project.out_features // patch**2
        self.project = Linear.of(project)

    def forward(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        _, height, width = self.latent_shape
        h, w, p = height // self.patch, width // self.patch, self.patch
        x = self.project(modulated_norm(x, shift, scale, self.eps))
        x = x.reshape(-1, h, w, p, p, self.out_channels).permute(0, 5, 1, 3, 2, 4)  # [R, C, h, p, w, p]
        return x.reshape(-1, self.out_channels, height, width)


class AdaLnDenoiser:
    """What families with adaLN share: the order of the conditioning, 6 entries a layer and 2 for the head.

    A layer's entries are shift, scale, gate of attn, then of ff; other modules take none.
    """

    spec: DenoiserSpec
    _layers: list[dict[str, DenoiserModule]]

    def module(self, layer: int, name: str) -> DenoiserModule:
        return self._layers[layer][name]

    def module_conditions(self, layer: int, name: str) -> tuple[int, ...]:
        first = ENTRIES * layer + _FIRST_ENTRY.get(name, 0)
        return (first, first + 1) if name in _FIRST_ENTRY else ()

    def gate_conditions(self, layer: int, name: str) -> tuple[int, ...]:
        return (ENTRIES * layer + _FIRST_ENTRY[name] + 2,) if name in _FIRST_ENTRY else ()

    def head_conditions(self) -> tuple[int, ...]:
        return (ENTRIES * self.spec.num_layers, ENTRIES * self.spec.num_layers + 1)

    @property
    def num_conditions(self) -> int:
        return ENTRIES * self.spec.num_layers + 2
