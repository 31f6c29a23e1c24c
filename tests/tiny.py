"""A toy DiT in diffusers' folder format, and plans for it: the whole product in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from soda_export.models.identity import SamplerIdentity, identify
from soda_export.models.spec import DenoiserSpec
from soda_export.plan.plan import Plan

LAYERS, TOKENS, CLASSES = 3, 16, 10


def save_tiny_model(folder: Path, seed: int = 0, **config: object) -> Path:
    """Random weights, 3 layers, 16 tokens, width 16; keyword arguments override the transformer's config."""
    import torch
    from diffusers import DDIMScheduler, DiTTransformer2DModel

    torch.manual_seed(seed)
    settings = {
        "num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 1, "out_channels": 1, "num_layers": LAYERS,
        "sample_size": 8, "patch_size": 2, "num_embeds_ada_norm": CLASSES,
    }  # fmt: skip
    DiTTransformer2DModel(**{**settings, **config}).save_pretrained(folder / "transformer")
    DDIMScheduler(clip_sample=False).save_pretrained(folder / "scheduler")
    return folder


def make_plan(
    spec: DenoiserSpec, kept: NDArray[np.int64], sampler: str = "ddim", eta: float = 0.0, guidance: float = 1.5
) -> Plan:
    """A hand-made plan for kept tokens [S, L, M]."""
    return Plan(identify(spec), SamplerIdentity(sampler, len(kept), eta), guidance, kept)


def mixed_kept(layers: int = LAYERS, tokens: int = TOKENS) -> NDArray[np.int64]:
    """Eight steps: full, reuse, prune, prune after prune, reuse, full, attention pruned, full."""
    kept = np.full((8, layers, 2), tokens, np.int64)
    kept[[1, 2, 3, 4, 6]] = 0
    kept[2, :, 1] = tokens // 4
    kept[3, :, 1] = tokens // 2
    kept[6, :, 0] = tokens // 2
    return kept
