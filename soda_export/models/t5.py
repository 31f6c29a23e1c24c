"""The encoder of T5 (Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
Transformer") and of T5 v1.1, which gates its feed-forward, cut into pieces that are traced once each.

The residual stream, the norms and the softmax are fp32 in every precision. With fp16 the second feed-forward
projection is fp32 too: its sums leave fp16's range, which is why transformers keeps `wo` in fp32 as well.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ..errors import ModelError
from .blocks import TORCH_DTYPES, split_heads

_MASKED = torch.finfo(torch.float32).min  # transformers' bias of a padding token
_RELATIVE_BIAS = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"


@dataclass(frozen=True)
class T5Spec:
    """Sizes of an encoder. width is D; the heads need not add up to it. gated: gelu (tanh) and a gate, else relu."""

    vocab_size: int
    width: int
    head_width: int
    ff_width: int
    num_layers: int
    num_heads: int
    num_buckets: int
    max_distance: int
    eps: float
    gated: bool


@dataclass(frozen=True)
class T5Weight:
    """One tensor of an encoder: under which names checkpoints have it (any of them), and what becomes of it.

    name: that of T5Encoder's state. stored: shape in the checkpoint; shape, dtype: ours.
    """

    name: str
    keys: tuple[str, ...]
    stored: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    convert: Callable[[Tensor], Tensor]


def read_t5_config(folder: Path) -> T5Spec:
    """The sizes in a transformers folder's config.json. Raises ModelError."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read ({error}); a transformers folder has a config.json") from None
    return parse_t5_config(config, str(path))


def parse_t5_config(config: Mapping[str, Any], where: str) -> T5Spec:
    """The sizes in the fields of a transformers T5Config. Raises ModelError, which names `where`."""
    classes = config.get("architectures") if isinstance(config, dict) else None
    if not isinstance(config, dict) or config.get("model_type") != "t5":
        kind = classes[0] if isinstance(classes, list) and classes else None
        raise ModelError(f"{where}: text encoder {kind!r} is not supported; supported: T5EncoderModel (model_type t5)")
    sizes = {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128} | config
    names = (
        "vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads", "relative_attention_num_buckets",
        "relative_attention_max_distance",
    )  # fmt: skip
    for name in names:
        if type(sizes.get(name)) is not int or sizes[name] < 1:
            raise ModelError(f"{where}: {name}={sizes.get(name)!r} is no size")
    activation = config.get("feed_forward_proj", "relu")
    if activation not in ("gated-gelu", "relu"):
        raise ModelError(f"{where}: feed_forward_proj={activation!r} is not supported; supported: gated-gelu, relu")
    if sizes[names[-2]] < 4 or sizes[names[-1]] <= sizes[names[-2]] // 4:
        raise ModelError(f"{where}: {names[-2]} and {names[-1]} leave no room for position buckets")
    vocabulary, width, head_width, ff_width, layers, heads, buckets, distance = (sizes[name] for name in names)
    eps, gated = float(config.get("layer_norm_epsilon", 1e-6)), activation == "gated-gelu"
    return T5Spec(vocabulary, width, head_width, ff_width, layers, heads, buckets, distance, eps, gated)


def t5_weights(spec: T5Spec, max_tokens: int, precision: str) -> list[T5Weight]:
    """Every tensor of an encoder for texts of `max_tokens`. Linear weights become [in, out]."""
    d, h, t = spec.width, spec.num_heads, max_tokens
    table = (spec.vocab_size, d)
    weights = [
        T5Weight(
            "embed.weight", ("shared.weight", "encoder.embed_tokens.weight"), table, table,
            _dtype("embed", precision), _as_stored,
        ),
        T5Weight(
            "bias.position", (_RELATIVE_BIAS,), (spec.num_buckets, h), (1, h, t, t), torch.float32,
            partial(position_table, max_tokens=t, max_distance=spec.max_distance),
        ),
        T5Weight("final_norm.weight", ("encoder.final_layer_norm.weight",), (d,), (d,), torch.float32, _as_stored),
    ]  # fmt: skip
    for layer in range(spec.num_layers):
        weights += [
            T5Weight(
                f"blocks.{layer}.{name}", (f"encoder.block.{layer}.{key}.weight",), stored, stored[::-1],
                _dtype(name, precision), Tensor.t,
            )
            for name, (key, stored) in _block_weights(spec).items()
        ]  # fmt: skip
    return weights


def position_table(relative_bias: Tensor, max_tokens: int, max_distance: int) -> Tensor:
    """Bias of every pair of positions: [buckets, heads] -> [1, heads, T, T] (Raffel et al., section 2.1).

    Half of the buckets are for keys after the query. Of each half, half are one distance each, and the others grow
    logarithmically up to max_distance and take everything beyond.
    """
    positions = torch.arange(max_tokens)
    relative = positions[None, :] - positions[:, None]  # key - query
    half = relative_bias.shape[0] // 2
    exact = half // 2
    distance = relative.abs()
    far = torch.log(distance.float() / exact) / math.log(max_distance / exact) * (half - exact)
    far = (exact + far.clamp(min=0).to(torch.int64)).clamp(max=half - 1)
    buckets = torch.where(distance < exact, distance, far) + (relative > 0) * half
    return relative_bias[buckets].permute(2, 0, 1)[None]


class T5Embed(nn.Module):
    """Token ids int64 [R, T] -> x [R, T, D]."""

    def __init__(self, spec: T5Spec, precision: str) -> None:
        super().__init__()
        self.weight = _empty((spec.vocab_size, spec.width), _dtype("embed", precision))

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight).float()


class T5Bias(nn.Module):
    """Attention mask int64 [R, T], 0 = padding -> additive bias of the scores of every layer [R, heads, T, T]."""

    def __init__(self, spec: T5Spec, max_tokens: int) -> None:
        super().__init__()
        self.position = _empty((1, spec.num_heads, max_tokens, max_tokens), torch.float32)

    def forward(self, mask: Tensor) -> Tensor:
        return self.position + (mask == 0).float()[:, None, None] * _MASKED


class T5Block(nn.Module):
    """One layer: x [R, T, D], bias [R or 1, heads, T, T] -> x, both float32.

    The softmax is spelled out: T5's scores are not scaled, and with a bias of one row ONNX Runtime refuses the fused
    operator. Query, key and value are three products, so that no more than one tensor is held when weights stream.
    """

    attn_norm: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    ff_norm: Tensor
    wi: Tensor  # without a gate
    wi_0: Tensor  # with one
    wi_1: Tensor
    wo: Tensor

    def __init__(self, spec: T5Spec, precision: str) -> None:
        super().__init__()
        self.num_heads, self.eps, self.gated = spec.num_heads, spec.eps, spec.gated
        for name, (_, stored) in _block_weights(spec).items():
            self.register_parameter(name, _empty(stored[::-1], _dtype(name, precision)))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        inputs = rms_norm(x, self.attn_norm, self.eps).to(self.q.dtype)
        query, key, value = (split_heads(inputs @ weight, self.num_heads) for weight in (self.q, self.k, self.v))
        probabilities = ((query @ key.transpose(2, 3)).float() + bias).softmax(dim=-1)  # [R, heads, T, T]
        attended = (probabilities.to(value.dtype) @ value).transpose(1, 2).flatten(2)
        x = x + (attended @ self.o).float()
        inputs = rms_norm(x, self.ff_norm, self.eps).to(self.q.dtype)
        return x + (self._up(inputs) @ self.wo).float()

    def _up(self, inputs: Tensor) -> Tensor:
        """[R, T, D] -> [R, T, ff_width] of wo's type, in which the gate's product has room."""
        if not self.gated:
            return F.relu(inputs @ self.wi).to(self.wo.dtype)
        gate = F.gelu(inputs @ self.wi_0, approximate="tanh")
        return gate.to(self.wo.dtype) * (inputs @ self.wi_1).to(self.wo.dtype)


class T5FinalNorm(nn.Module):
    """x [R, T, D] -> embeddings [R, T, D], float32."""

    def __init__(self, spec: T5Spec) -> None:
        super().__init__()
        self.eps, self.weight = spec.eps, _empty((spec.width,), torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class T5Encoder(nn.Module):
    """All pieces in order, as the exported program runs them. Its state is that program's weights file."""

    def __init__(self, spec: T5Spec, max_tokens: int, precision: str) -> None:
        super().__init__()
        self.embed, self.bias, self.final_norm = T5Embed(spec, precision), T5Bias(spec, max_tokens), T5FinalNorm(spec)
        self.blocks = nn.ModuleList(T5Block(spec, precision) for _ in range(spec.num_layers))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids, mask int64 [R, T] -> embeddings float32 [R, T, D]."""
        x, bias = self.embed(ids), self.bias(mask)
        for block in self.blocks:
            x = block(x, bias)
        return self.final_norm(x)  # type: ignore[no-any-return]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [R, T, D] over its root mean square, times weight [D], in float32 (Zhang & Sennrich 2019)."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def _block_weights(spec: T5Spec) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name in T5Block -> transformers' name within a block, and its shape there."""
    d, inner, ff = spec.width, spec.num_heads * spec.head_width, spec.ff_width
    up = ("wi_0", "wi_1") if spec.gated else ("wi",)
    return {
        "attn_norm": ("layer.0.layer_norm", (d,)),
        **{name: (f"layer.0.SelfAttention.{name}", (inner, d)) for name in "qkv"},
        "o": ("layer.0.SelfAttention.o", (d, inner)),
        "ff_norm": ("layer.1.layer_norm", (d,)),
        **{name: (f"layer.1.DenseReluDense.{name}", (ff, d)) for name in up},
        "wo": ("layer.1.DenseReluDense.wo", (d, ff)),
    }


def _dtype(name: str, precision: str) -> torch.dtype:
    """Type of a weight of T5Block or T5Embed."""
    if name.endswith("norm") or (name == "wo" and precision == "fp16"):
        return torch.float32
    return TORCH_DTYPES[precision]


def _as_stored(tensor: Tensor) -> Tensor:
    return tensor


def _empty(shape: tuple[int, ...], dtype: torch.dtype) -> nn.Parameter:
    """To be loaded, or to be traced without numbers: memory that nothing touches."""
    return nn.Parameter(torch.empty(shape, dtype=dtype), requires_grad=False)
