"""A toy DiT and a toy PixArt in diffusers' folder format, and plans for them: the whole product in seconds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from soda_export.models.identity import SamplerIdentity, identify
from soda_export.models.spec import DenoiserSpec
from soda_export.plan.plan import Plan
from soda_export.plan.schedule import BLOCKS_RUN, Schedule

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


def save_tiny_pixart(folder: Path, seed: int = 0, vae: bool = True, text: bool = True, **config: object) -> Path:
    """Random weights, 3 layers, 16 tokens, width 48, captions of 8 tokens, images of 16 pixels."""
    import torch
    from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, PixArtTransformer2DModel
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    torch.manual_seed(seed)
    settings = {
        "num_attention_heads": 2, "attention_head_dim": 24, "in_channels": 4, "out_channels": 8, "num_layers": LAYERS,
        "cross_attention_dim": 48, "caption_channels": 16, "sample_size": 8, "patch_size": 2,
    }  # fmt: skip
    transformer = PixArtTransformer2DModel(**{**settings, **config})
    for parameter in transformer.parameters():  # diffusers leaves some at zero, where nothing could be compared
        parameter.data += 0.02 * torch.randn_like(parameter)
    transformer.save_pretrained(folder / "transformer")
    DPMSolverMultistepScheduler().save_pretrained(folder / "scheduler")
    classes = {
        "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
        "transformer": ["diffusers", "PixArtTransformer2DModel"],
    }
    if vae:
        AutoencoderKL(
            block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        ).save_pretrained(folder / "vae")  # fmt: skip
        classes["vae"] = ["diffusers", "AutoencoderKL"]
    if text:
        words = ["a", "red", "blue", "circle", "square", "above"]
        words = ["<pad>", "</s>", "<unk>", "\u2581", *("\u2581" + word for word in words)]
        tokenizer = T5Tokenizer(vocab=[(w, -float(i)) for i, w in enumerate(words)], extra_ids=0, model_max_length=8)
        tokenizer.save_pretrained(folder / "tokenizer")
        T5EncoderModel(
            T5Config(
                vocab_size=len(tokenizer), d_model=16, d_kv=8, num_heads=2, d_ff=32, num_layers=2, dropout_rate=0.0,
                feed_forward_proj="gated-gelu", is_encoder_decoder=False, use_cache=False,
            )
        ).save_pretrained(folder / "text_encoder")  # fmt: skip
        classes |= {"tokenizer": ["transformers", "T5Tokenizer"], "text_encoder": ["transformers", "T5EncoderModel"]}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "PixArtAlphaPipeline", **classes}))
    return folder


def make_plan(
    spec: DenoiserSpec, kept: NDArray[np.int64], sampler: str = "ddim", eta: float = 0.0, guidance: float = 1.5,
    guided_channels: int = 0, stack: NDArray[np.int64] | None = None,
) -> Plan:  # fmt: skip
    """A hand-made plan for kept tokens [S, L, M]; stack: as in a Schedule, default: the blocks always run."""
    schedule = Schedule.of(kept) if stack is None else Schedule(kept, stack)
    return Plan(identify(spec), SamplerIdentity(sampler, len(kept), eta, guided_channels), guidance, schedule)


def mixed_kept(layers: int = LAYERS, tokens: int = TOKENS, modules: int = 2) -> NDArray[np.int64]:
    """Eight steps: full, reuse, prune all but attention, again more of it, reuse, full, attention pruned, full."""
    kept = np.full((8, layers, modules), tokens, np.int64)
    kept[[1, 2, 3, 4, 6]] = 0
    kept[2, :, 1:] = tokens // 4
    kept[3, :, 1:] = tokens // 2
    kept[6, :, 0] = tokens // 2
    return kept


def forecasting_schedule(layers: int = LAYERS, tokens: int = TOKENS, modules: int = 2) -> Schedule:
    """Ten steps: full, full, forecast of order 1, all blocks skipped, full, forecast of order 2 beside pruned modules,
    blocks skipped at order 1, half of a step computed, blocks skipped at order 2, full."""
    kept = np.full((10, layers, modules), tokens, np.int64)
    stack = np.full(10, BLOCKS_RUN, np.int64)
    kept[2] = -1
    kept[5], kept[5, :, 1:] = -2, tokens // 4
    kept[7, layers // 2 :] = -2
    stack[[3, 6, 8]] = [0, 1, 2]
    kept[stack != BLOCKS_RUN] = 0
    return Schedule(kept, stack)
