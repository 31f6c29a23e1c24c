"""The `dit` family: diffusers' DiTTransformer2DModel (Peebles & Xie 2023, "Scalable Diffusion Models with
Transformers") cut at the Denoiser seam.

Each block of diffusers' DiT carries its own timestep and label embedder, and the head uses block 0's. The timesteps
are frozen, so the timestep half is a table; the label half and adaLN's linear layers run once per request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from .blocks import ENTRIES, AdaLnDenoiser, Embed, FeedForward, GatedResidual, Head, Linear, SelfAttention
from .context import TextContext
from .spec import DenoiserSpec, LabelCondition

if TYPE_CHECKING:
    from diffusers import DiTTransformer2DModel

MODULES = ("attn", "ff")
TIME_EMBEDDING = "time_embedding"


class DitConditioning(nn.Module):
    """Labels and the timestep table to every adaLN modulation of a window of steps."""

    def __init__(self, label_tables: list[Tensor], modulations: list[Linear], head: Linear) -> None:
        super().__init__()
        self.label_tables = nn.ParameterList(nn.Parameter(table.detach(), False) for table in label_tables)
        self.modulations, self.head = nn.ModuleList(modulations), head

    def forward(self, labels: Tensor, time_embedding: Tensor) -> Tensor:
        """labels [R], time_embedding [W, L, D] -> [W, R, 6 L + 2, D]."""
        entries = []
        for layer, (table, modulation) in enumerate(zip(self.label_tables, self.modulations, strict=True)):
            embedding = F.silu(time_embedding[:, layer, None] + F.embedding(labels, table))  # [W, R, D]
            entries.append(modulation(embedding).reshape(*embedding.shape[:2], ENTRIES, embedding.shape[2]))
            if layer == 0:
                head = self.head(embedding).reshape(*embedding.shape[:2], 2, embedding.shape[2])
        return torch.cat([*entries, head], dim=2)


class DitDenoiser(AdaLnDenoiser):
    """A diffusers DiT as a Denoiser. Weights are copied once into the layout that the graphs use.

    The model is used up: each block is released when it has been copied, so that one copy of the weights and one
    block are the most that is in memory.
    """

    context: TextContext | None = None

    def __init__(self, model: DiTTransformer2DModel, spec: DenoiserSpec) -> None:
        self.spec = spec
        self.embed: nn.Module = Embed(model).eval()
        self.head: nn.Module = Head(model.proj_out_2, model.norm_out.eps, model.patch_size, spec.latent_shape).eval()
        self._residual = GatedResidual()
        self._time_embedders, self._layers, label_tables, modulations = [], [], [], []
        head = Linear.of(model.proj_out_1)
        for i, block in enumerate(model.transformer_blocks):
            norm = block.norm1
            self._time_embedders.append((norm.emb.time_proj, norm.emb.timestep_embedder))
            label_tables.append(norm.emb.class_embedder.embedding_table.weight)
            modulations.append(Linear.of(norm.linear))
            attention = SelfAttention(block.attn1, spec.num_heads, norm.norm.eps)
            self._layers.append({"attn": attention, "ff": FeedForward(block.ff, block.norm3.eps)})
            model.transformer_blocks[i] = nn.Identity()
        self.conditioning: nn.Module = DitConditioning(label_tables, modulations, head).eval()

    def residual(self, name: str) -> nn.Module:
        return self._residual

    def module_context(self, layer: int, name: str) -> tuple[str, ...]:
        return ()

    @torch.no_grad()
    def tables(self, timesteps: tuple[float, ...]) -> dict[str, Tensor]:
        """The timestep half of every block's embedding: [S, L, D]."""
        steps = torch.tensor(timesteps)
        rows = [embed(project(steps)) for project, embed in self._time_embedders]
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
        latent_shape=(config.in_channels, config.sample_size, config.sample_size), out_channels=model.out_channels,
        condition=LabelCondition(num_classes=classes, null_class=classes), output="latents" if has_vae else "pixels",
    )  # fmt: skip
