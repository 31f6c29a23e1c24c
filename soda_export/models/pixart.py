"""The `pixart` family: diffusers' PixArtTransformer2DModel (Chen et al. 2023, "PixArt-alpha"; 2024, "PixArt-Sigma")
cut at the Denoiser seam.

adaLN-single depends on the timestep, and with micro-conditioning on the image's size, which is frozen, too: it is a
table. Keys and values of the caption depend on the prompt alone: they are made once per request.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ..errors import ModelError
from .blocks import (
    ENTRIES,
    AdaLnDenoiser,
    Embed,
    FeedForward,
    GatedResidual,
    Head,
    Linear,
    PlainResidual,
    SelfAttention,
    split_heads,
)
from .context import TEXT_BIAS, TextContext
from .denoiser import DenoiserModule
from .spec import DenoiserSpec, TextCondition

if TYPE_CHECKING:
    from diffusers import PixArtTransformer2DModel

MODULES = ("attn", "cross_attn", "ff")
MODULATION, TIME_EMBEDDING = "modulation", "time_embedding"
_PIXELS_PER_LATENT = 8  # of the autoencoders of every model with micro-conditioning


class CrossAttention(DenoiserModule):
    """Tokens attend to the caption. Its input is the hidden state itself; keys and values come with the context.

    The softmax is spelled out, in fp32: with a mask of one row a sample, the fused operator is refused by ONNX
    Runtime, and the caption is short.
    """

    def __init__(self, attention: Any, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.out = Linear.of(attention.to_q), Linear.of(attention.to_out[0])

    def normalize(self, x: Tensor, *conditions: Tensor) -> Tensor:
        return x

    def forward(self, inputs: Tensor, *context: Tensor) -> Tensor:
        key, value, bias = context  # [R, heads, T, d] twice, [R, 1, 1, T]
        query = split_heads(self.query(inputs), self.num_heads) * key.shape[-1] ** -0.5
        scores = (query @ key.transpose(2, 3)).float() + bias
        attended = scores.softmax(dim=-1).to(value.dtype) @ value
        return self.out(attended.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def kept(self, inputs: Tensor, kept: Tensor, *context: Tensor) -> Tensor:
        return self(kept, *context)  # type: ignore[no-any-return]


class Caption(nn.Module):
    """The caption projection: embeddings [R, T, E] -> [R, T, D]."""

    def __init__(self, projection: Any) -> None:
        super().__init__()
        self.up, self.down = Linear.of(projection.linear_1), Linear.of(projection.linear_2)

    def forward(self, embeds: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(embeds), approximate="tanh"))  # type: ignore[no-any-return]


class CaptionHeads(nn.Module):
    """Keys or values of one layer: caption [R, T, D] -> [R, heads, T, D / heads]."""

    def __init__(self, projection: nn.Linear, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.project = num_heads, Linear.of(projection)

    def forward(self, caption: Tensor) -> Tensor:
        return split_heads(self.project(caption), self.num_heads)


class PixArtConditioning(nn.Module):
    """Tables of the frozen timesteps plus every layer's own offsets: all modulations of a window of steps."""

    def __init__(self, layers: Tensor, head: Tensor) -> None:
        super().__init__()
        self.layers, self.head = nn.Parameter(layers, False), nn.Parameter(head.detach().clone(), False)

    def forward(self, modulation: Tensor, time_embedding: Tensor) -> Tensor:
        """modulation [W, 6, D], time_embedding [W, D] -> [W, 1, 6 L + 2, D], the same for every row."""
        entries = (self.layers + modulation[:, None]).flatten(1, 2)
        return torch.cat([entries, self.head + time_embedding[:, None]], dim=1)[:, None]


class PixArtDenoiser(AdaLnDenoiser):
    """A diffusers PixArt as a Denoiser. The model is used up: each block is released when it has been copied."""

    def __init__(self, model: PixArtTransformer2DModel, spec: DenoiserSpec) -> None:
        self.spec = spec
        patch = model.config.patch_size
        self.embed: nn.Module = Embed(model).eval()
        self.head: nn.Module = Head(model.proj_out, model.norm_out.eps, patch, spec.latent_shape).eval()
        self._residuals: dict[str, nn.Module] = {
            "attn": GatedResidual(), "cross_attn": PlainResidual(), "ff": GatedResidual()
        }  # fmt: skip
        self._adaln = model.adaln_single
        self._layers: list[dict[str, DenoiserModule]] = []
        projections: dict[str, nn.Module] = {}
        offsets = []
        for i, block in enumerate(model.transformer_blocks):
            offsets.append(block.scale_shift_table.detach().clone())
            projections[f"key_{i}"] = CaptionHeads(block.attn2.to_k, spec.num_heads).eval()
            projections[f"value_{i}"] = CaptionHeads(block.attn2.to_v, spec.num_heads).eval()
            self._layers.append({
                "attn": SelfAttention(block.attn1, spec.num_heads, block.norm1.eps),
                "cross_attn": CrossAttention(block.attn2, spec.num_heads),
                "ff": FeedForward(block.ff, block.norm2.eps),
            })  # fmt: skip
            model.transformer_blocks[i] = nn.Identity()
        self.conditioning: nn.Module = PixArtConditioning(torch.stack(offsets), model.scale_shift_table).eval()
        self.context: TextContext | None = TextContext(Caption(model.caption_projection).eval(), projections)

    def residual(self, name: str) -> nn.Module:
        return self._residuals[name]

    def module_context(self, layer: int, name: str) -> tuple[str, ...]:
        return (f"key_{layer}", f"value_{layer}", TEXT_BIAS) if name == "cross_attn" else ()

    @torch.no_grad()
    def tables(self, timesteps: tuple[float, ...]) -> dict[str, Tensor]:
        """adaLN-single of every step [S, 6, D], and its timestep embedding [S, D], which the head takes."""
        steps, count = torch.tensor(timesteps), len(timesteps)
        _, height, width = (_PIXELS_PER_LATENT * n for n in self.spec.latent_shape)
        size = {
            "resolution": torch.tensor([[float(height), float(width)]]).repeat(count, 1),
            "aspect_ratio": torch.tensor([[height / width]]).repeat(count, 1),
        }  # without micro-conditioning the model does not look at it
        modulation, embedding = self._adaln(steps, size, batch_size=count, hidden_dtype=torch.float32)
        return {MODULATION: modulation.reshape(count, ENTRIES, -1), TIME_EMBEDDING: embedding}


def check_pixart_config(path: Path, model: PixArtTransformer2DModel) -> None:
    """Refuse what the pixart family would not reproduce exactly. path: the config.json, for the message."""
    config = model.config
    if config.caption_channels is None:
        raise ModelError(f"{path}: caption_channels is not set; the pixart family needs a caption projection")
    width = config.num_attention_heads * config.attention_head_dim
    if config.cross_attention_dim != width:
        raise ModelError(f"{path}: cross_attention_dim={config.cross_attention_dim} is not the width {width}")
    if config.norm_elementwise_affine or config.attention_type != "default":
        raise ModelError(f"{path}: norm_elementwise_affine and attention_type other than default are not supported")
    if config.sample_size % config.patch_size:
        sizes = f"sample_size={config.sample_size}, patch_size={config.patch_size}"
        raise ModelError(f"{path}: {sizes}: the first must be a multiple of the second")
    if model.out_channels not in (config.in_channels, 2 * config.in_channels):
        raise ModelError(f"{path}: out_channels={model.out_channels} is neither in_channels nor twice as many")
    if type(model.transformer_blocks[0].ff.net[0]).__name__ != "GELU":
        raise ModelError(
            f"{path}: activation_fn={config.activation_fn!r} is not supported; "
            "the pixart family has gelu and gelu-approximate"
        )


def pixart_spec(
    model: PixArtTransformer2DModel, name: str, fingerprint: str, has_vae: bool, max_tokens: int
) -> DenoiserSpec:
    """Read the sizes off a loaded model. max_tokens: length that captions are padded to."""
    config = model.config
    return DenoiserSpec(
        name=name, family="pixart", hash=fingerprint, num_layers=config.num_layers, modules=MODULES,
        num_tokens=(config.sample_size // config.patch_size) ** 2,
        width=config.num_attention_heads * config.attention_head_dim, num_heads=config.num_attention_heads,
        ff_width=model.transformer_blocks[0].ff.net[0].proj.out_features,
        latent_shape=(config.in_channels, config.sample_size, config.sample_size), out_channels=model.out_channels,
        condition=TextCondition(max_tokens=max_tokens, embed_width=config.caption_channels),
        output="latents" if has_vae else "pixels",
    )  # fmt: skip
