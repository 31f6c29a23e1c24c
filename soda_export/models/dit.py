"""The `dit` family: diffusers' DiTTransformer2DModel (Peebles & Xie 2023, "Scalable Diffusion Models with
Transformers") cut at the Denoiser seam.

Each block of diffusers' DiT carries its own timestep and label embedder, and the head uses block 0's. The timesteps
are frozen, so the timestep half is a table; the label half and adaLN's linear layers run once per request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from .denoiser import DenoiserModule
from .spec import DenoiserSpec

if TYPE_CHECKING:
    from diffusers import DiTTransformer2DModel

MODULES = ("attn", "ff")
TIME_EMBEDDING = "time_embedding"
_ENTRIES = 6  # shift, scale, gate of attn; shift, scale, gate of ff: adaLN-Zero's order


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


def _modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, (x.shape[-1],), eps=eps) * (1 + scale) + shift


class DitAttention(DenoiserModule):
    """Self-attention with fused query, key and value projections."""

    def __init__(self, block: Any, num_heads: int) -> None:
        super().__init__()
        attention = block.attn1
        self.num_heads, self.eps = num_heads, block.norm1.norm.eps
        self.qkv = Linear.of(attention.to_q, attention.to_k, attention.to_v)
        self.out = Linear.of(attention.to_out[0])

    def normalize(self, x: Tensor, *conditions: Tensor) -> Tensor:
        shift, scale = conditions
        return _modulated_norm(x, shift, scale, self.eps)

    def forward(self, inputs: Tensor) -> Tensor:
        return self._attend(*self.qkv(inputs).chunk(3, dim=-1))

    def kept(self, inputs: Tensor, kept: Tensor) -> Tensor:
        """Queries of the kept tokens alone attend to the keys and values of all tokens."""
        width = inputs.shape[-1]
        query = kept @ self.qkv.weight[:, :width] + self.qkv.bias[:width]
        both = inputs @ self.qkv.weight[:, width:] + self.qkv.bias[width:]
        return self._attend(query, *both.chunk(2, dim=-1))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key, value = (  # [R, T, D] -> [R, heads, T, D / heads]
            t.reshape(*t.shape[:2], self.num_heads, t.shape[-1] // self.num_heads).transpose(1, 2)
            for t in (query, key, value)
        )
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return self.out(attended)  # type: ignore[no-any-return]


class DitFeedForward(DenoiserModule):
    """Token-wise MLP, so the kept tokens need no others."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.eps = block.norm3.eps
        activation = block.ff.net[0]
        self.approximate = activation.approximate
        self.up, self.down = Linear.of(activation.proj), Linear.of(block.ff.net[2])

    def normalize(self, x: Tensor, *conditions: Tensor) -> Tensor:
        shift, scale = conditions
        return _modulated_norm(x, shift, scale, self.eps)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(inputs), approximate=self.approximate))  # type: ignore[no-any-return]

    def kept(self, inputs: Tensor, kept: Tensor) -> Tensor:
        return self(kept)  # type: ignore[no-any-return]


class DitResidual(nn.Module):
    """adaLN-Zero's gated sum."""

    def forward(self, x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
        return x + gate * y


class DitEmbed(nn.Module):
    """Patches to tokens, plus the fixed position embedding. A convolution of stride = kernel is one GEMM."""

    def __init__(self, model: DiTTransformer2DModel) -> None:
        super().__init__()
        self.pos_embed = model.pos_embed

    def forward(self, latents: Tensor) -> Tensor:
        return self.pos_embed(latents)  # type: ignore[no-any-return]


class DitHead(nn.Module):
    """Final adaLN, projection and unpatchify; channels of a learned variance are dropped, as DiTPipeline does."""

    def __init__(self, model: DiTTransformer2DModel, latent_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.eps, self.patch = model.norm_out.eps, model.patch_size
        self.latent_shape, self.out_channels = latent_shape, model.out_channels
        self.project = Linear.of(model.proj_out_2)

    def forward(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        channels, height, width = self.latent_shape
        h, w, p = height // self.patch, width // self.patch, self.patch
        x = self.project(_modulated_norm(x, shift, scale, self.eps))
        x = x.reshape(-1, h, w, p, p, self.out_channels).permute(0, 5, 1, 3, 2, 4)  # [R, C, h, p, w, p]
        return x.reshape(-1, self.out_channels, height, width)[:, :channels]


class DitPrepare(nn.Module):
    """Labels and the timestep table to every adaLN modulation of a window of steps."""

    def __init__(self, model: DiTTransformer2DModel) -> None:
        super().__init__()
        blocks = model.transformer_blocks
        self.label_tables = nn.ParameterList(
            nn.Parameter(b.norm1.emb.class_embedder.embedding_table.weight.detach(), False) for b in blocks
        )
        self.modulations = nn.ModuleList(Linear.of(b.norm1.linear) for b in blocks)
        self.head = Linear.of(model.proj_out_1)

    def forward(self, labels: Tensor, time_embedding: Tensor) -> Tensor:
        """labels [R], time_embedding [W, L, D] -> [W, R, 6 L + 2, D]."""
        entries = []
        for layer, (table, modulation) in enumerate(zip(self.label_tables, self.modulations, strict=True)):
            embedding = F.silu(time_embedding[:, layer, None] + F.embedding(labels, table))  # [W, R, D]
            entries.append(modulation(embedding).reshape(*embedding.shape[:2], _ENTRIES, embedding.shape[2]))
            if layer == 0:
                head = self.head(embedding).reshape(*embedding.shape[:2], 2, embedding.shape[2])
        return torch.cat([*entries, head], dim=2)


class DitDenoiser:
    """A diffusers DiT as a Denoiser. Weights are copied once into the layout that the graphs use."""

    def __init__(self, model: DiTTransformer2DModel, spec: DenoiserSpec) -> None:
        self.spec = spec
        self.prepare: nn.Module = DitPrepare(model).eval()
        self.embed: nn.Module = DitEmbed(model).eval()
        self.residual: nn.Module = DitResidual()
        self.head: nn.Module = DitHead(model, spec.latent_shape).eval()
        self._time_embedders = [block.norm1.emb for block in model.transformer_blocks]
        self._layers: list[dict[str, DenoiserModule]] = [
            {"attn": DitAttention(block, spec.num_heads), "ff": DitFeedForward(block)}
            for block in model.transformer_blocks
        ]

    def module(self, layer: int, name: str) -> DenoiserModule:
        return self._layers[layer][name]

    def module_conditions(self, layer: int, name: str) -> tuple[int, ...]:
        first = _ENTRIES * layer + 3 * MODULES.index(name)
        return (first, first + 1)

    def gate_conditions(self, layer: int, name: str) -> tuple[int, ...]:
        return (_ENTRIES * layer + 3 * MODULES.index(name) + 2,)

    def head_conditions(self) -> tuple[int, ...]:
        return (_ENTRIES * self.spec.num_layers, _ENTRIES * self.spec.num_layers + 1)

    @property
    def num_conditions(self) -> int:
        return _ENTRIES * self.spec.num_layers + 2

    @torch.no_grad()
    def tables(self, timesteps: tuple[int, ...]) -> dict[str, Tensor]:
        """The timestep half of every block's embedding: [S, L, D]."""
        steps = torch.tensor(timesteps)
        rows = [emb.timestep_embedder(emb.time_proj(steps)) for emb in self._time_embedders]
        return {TIME_EMBEDDING: torch.stack(rows, dim=1)}


def dit_spec(model: DiTTransformer2DModel, name: str, fingerprint: str, has_vae: bool) -> DenoiserSpec:
    """Read the sizes off a loaded model."""
    config = model.config
    width = config.num_attention_heads * config.attention_head_dim
    classes = config.num_embeds_ada_norm
    return DenoiserSpec(
        name=name, family="dit", hash=fingerprint, num_layers=config.num_layers, modules=MODULES,
        num_tokens=(config.sample_size // config.patch_size) ** 2, width=width,
        num_heads=config.num_attention_heads, ff_width=model.transformer_blocks[0].ff.net[0].proj.out_features,
        latent_shape=(config.in_channels, config.sample_size, config.sample_size),
        num_classes=classes, null_class=classes, output="latents" if has_vae else "pixels",
    )  # fmt: skip
