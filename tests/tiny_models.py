"""Toy models of every family in diffusers' folder format: the whole product in seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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


def save_tiny_dit(folder: Path, seed: int = 0) -> Path:
    """The toy DiT as DiTPipeline wants it: ImageNet's classes, an autoencoder of 4 channels, a learned variance."""
    save_tiny_model(folder, seed, in_channels=4, out_channels=8, num_embeds_ada_norm=1000)
    _save_tiny_vae(folder)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "DiTPipeline"}))
    return folder


def save_tiny_pixart(folder: Path, seed: int = 0, vae: bool = True, text: bool = True, **config: object) -> Path:
    """Random weights, 3 layers, 16 tokens, width 48, captions of 8 tokens, images of 16 pixels."""
    import torch
    from diffusers import DPMSolverMultistepScheduler, PixArtTransformer2DModel
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    torch.manual_seed(seed)
    settings = {
        "num_attention_heads": 2, "attention_head_dim": 24, "in_channels": 4, "out_channels": 8, "num_layers": LAYERS,
        "cross_attention_dim": 48, "caption_channels": 16, "sample_size": 8, "patch_size": 2,
    }  # fmt: skip
    transformer = PixArtTransformer2DModel(**{**settings, **config})
    _save_stirred(transformer, folder)
    DPMSolverMultistepScheduler().save_pretrained(folder / "scheduler")
    classes = {
        "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
        "transformer": ["diffusers", "PixArtTransformer2DModel"],
    }
    if vae:
        _save_tiny_vae(folder)
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


def save_tiny_flux(folder: Path, seed: int = 0, **config: object) -> Path:
    """Random weights, 2 double and 2 single layers, width 48; a VAE that halves makes 128 pixels 1024 tokens."""
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

    torch.manual_seed(seed)
    settings = {
        "in_channels": 16, "num_layers": 2, "num_single_layers": 2, "attention_head_dim": 24, "num_attention_heads": 2,
        "joint_attention_dim": 16, "pooled_projection_dim": 12, "guidance_embeds": True, "axes_dims_rope": (8, 8, 8),
    }  # fmt: skip
    _save_stirred(FluxTransformer2DModel(**{**settings, **config}), folder)
    FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True).save_pretrained(folder / "scheduler")
    _save_tiny_vae(folder)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    return folder


def save_tiny_sd3(folder: Path, seed: int = 0, **config: object) -> Path:
    """Random weights, 3 layers, the first with a second attention, 16 tokens, width 48."""
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel

    torch.manual_seed(seed)
    settings = {
        "sample_size": 8, "in_channels": 4, "out_channels": 4, "num_layers": LAYERS, "attention_head_dim": 24,
        "num_attention_heads": 2, "joint_attention_dim": 16, "caption_projection_dim": 48, "pooled_projection_dim": 12,
        "pos_embed_max_size": 8, "dual_attention_layers": (0,), "qk_norm": "rms_norm",
    }  # fmt: skip
    _save_stirred(SD3Transformer2DModel(**{**settings, **config}), folder)
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(folder / "scheduler")
    _save_tiny_vae(folder)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusion3Pipeline"}))
    return folder


UNETS: dict[str, dict[str, object]] = {
    "sd15": {},
    "sd21": {"use_linear_projection": True, "upcast_attention": True},
    "sdxl": {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2), "use_linear_projection": True, "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 12 + 6 * 8,
    },
}  # fmt: skip
"""What configurations of Stable Diffusion have beside the toy's own."""


def save_tiny_unet(folder: Path, kind: str = "sd15", seed: int = 0, **config: object) -> Path:
    """Random weights, two levels of one layer, widths 16 and 32, latents [4, 8, 8], texts of 16 numbers a token."""
    import torch
    from diffusers import DDIMScheduler, EulerDiscreteScheduler, UNet2DConditionModel

    torch.manual_seed(seed)
    settings = {
        "sample_size": 8, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8,
        "attention_head_dim": 2, "cross_attention_dim": 16, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }  # fmt: skip
    _save_stirred(UNet2DConditionModel(**{**settings, **UNETS[kind], **config}), folder, "unet", by=0.1)
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    if kind == "sdxl":
        EulerDiscreteScheduler(**betas, timestep_spacing="leading").save_pretrained(folder / "scheduler")
    else:
        own = {"clip_sample": False, "set_alpha_to_one": False}
        predicts = "v_prediction" if kind == "sd21" else "epsilon"
        DDIMScheduler(**betas, **own, prediction_type=predicts).save_pretrained(folder / "scheduler")
    _save_tiny_vae(folder)
    pipeline = f"StableDiffusion{'XL' if kind == 'sdxl' else ''}Pipeline"
    (folder / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    return folder


def add_tiny_controlnet(folder: Path, part: str = "controlnet", seed: int = 1, **config: object) -> Path:
    """A ControlNet with random weights for the UNet of a folder: hints of 16 x 16 pixels for 8 x 8 latents."""
    import torch
    from diffusers import ControlNetModel, UNet2DConditionModel

    torch.manual_seed(seed)
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", low_cpu_mem_usage=False)
    if unet.config.in_channels != unet.config.out_channels:  # ControlNets take the latents alone
        unet = UNet2DConditionModel(**{**unet.config, "in_channels": unet.config.out_channels})
    control = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 16))
    if config:
        control = ControlNetModel(**{**control.config, **config})
    _save_stirred(control, folder, part, by=0.1)
    return folder


def save_tiny_sana(folder: Path, seed: int = 0, **config: object) -> Path:
    """Random weights, 3 layers, 16 tokens, width 48."""
    import torch
    from diffusers import DPMSolverMultistepScheduler, SanaTransformer2DModel

    torch.manual_seed(seed)
    settings = {
        "in_channels": 4, "out_channels": 4, "num_attention_heads": 6, "attention_head_dim": 8, "num_layers": LAYERS,
        "num_cross_attention_heads": 2, "cross_attention_head_dim": 24, "cross_attention_dim": 48,
        "caption_channels": 16, "sample_size": 4,
    }  # fmt: skip
    _save_stirred(SanaTransformer2DModel(**{**settings, **config}), folder)
    DPMSolverMultistepScheduler(
        flow_shift=3.0, use_flow_sigmas=True, prediction_type="flow_prediction"
    ).save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "SanaPipeline"}))
    return folder


def save_tiny_opensora(folder: Path, seed: int = 0, **config: object) -> Path:
    """Random weights, 2 layers, latents of 2 frames of 4 x 4 tokens, width 48; --size 16x16 --frames 2."""
    import torch

    from soda_export.models.own.stdit import STDiT3
    from soda_export.sampler.rflow import RFlowScheduler

    torch.manual_seed(seed)
    settings = {"hidden_size": 48, "depth": 2, "num_heads": 2, "caption_channels": 16, "model_max_length": 8}
    _save_stirred(STDiT3(**{**settings, **config}), folder)
    RFlowScheduler(use_timestep_transform=True).save_pretrained(folder / "scheduler")
    _save_tiny_vae(folder)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "OpenSora"}))
    return folder


def save_tiny_wan(folder: Path, seed: int = 0, **config: object) -> Path:
    """Random weights, 2 layers, width 48, texts of 24 tokens; a video autoencoder that makes 8 x 8 pixels of a latent
    and 4 frames of each but the first."""
    import torch
    from diffusers import UniPCMultistepScheduler, WanTransformer3DModel

    torch.manual_seed(seed)
    settings = {
        "num_attention_heads": 2, "attention_head_dim": 24, "in_channels": 4, "out_channels": 4, "text_dim": 16,
        "freq_dim": 16, "ffn_dim": 96, "num_layers": 2,
    }  # fmt: skip
    _save_stirred(WanTransformer3DModel(**{**settings, **config}), folder)
    UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    ).save_pretrained(folder / "scheduler")  # fmt: skip
    save_tiny_wan_vae(folder / "vae")
    classes = {"vae": ["diffusers", "AutoencoderKLWan"], "transformer": ["diffusers", "WanTransformer3DModel"]}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "WanPipeline", **classes}))
    return folder


def plain_wan(folder: Path) -> Any:
    """diffusers' own model of the folder, whose from_pretrained needs accelerate."""
    from diffusers import WanTransformer3DModel
    from safetensors.torch import load_file

    model = WanTransformer3DModel.from_config(WanTransformer3DModel.load_config(folder / "transformer"))
    model.load_state_dict(load_file(folder / "transformer/diffusion_pytorch_model.safetensors"))
    return model.eval()


SMALL_WAN_VAE: dict[str, Any] = {
    "dim_mult": [1, 1], "temperal_downsample": [True], "num_res_blocks": 0, "scale_factor_spatial": 2,
    "scale_factor_temporal": 2,
}  # fmt: skip
"""Two levels instead of four: 2 x 2 pixels of a latent and 2 frames of each but the first."""


def save_tiny_wan_vae(folder: Path, **config: object) -> Any:
    """A random video autoencoder of 4 channels."""
    import torch
    from diffusers import AutoencoderKLWan

    torch.manual_seed(3)
    settings = {
        "base_dim": 4, "z_dim": 4, "dim_mult": [1, 2, 2, 2], "num_res_blocks": 1,
        "latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [1.5, 0.5, 2.0, 1.0],
    }  # fmt: skip
    vae = AutoencoderKLWan(**{**settings, **config}).eval()
    vae.save_pretrained(folder)
    return vae


def save_tiny_musicldm(folder: Path, seed: int = 0, vocoder: bool = True, **config: object) -> Path:
    """Random weights, two levels of one layer, widths 16 and 32, texts of 24 numbers; an autoencoder that makes 2 x 2
    of a latent and a vocoder that makes 8 samples of 8 mels: latents [4, 8, 4], 0.128 s at 1000 Hz."""
    import torch
    from diffusers import DDIMScheduler, UNet2DConditionModel
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    torch.manual_seed(seed)
    settings = {
        "sample_size": 8, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8,
        "attention_head_dim": 2, "cross_attention_dim": (16, 32), "class_embed_type": "simple_projection",
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "class_embeddings_concat": True,
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "projection_class_embeddings_input_dim": 24,
    }  # fmt: skip
    _save_stirred(UNet2DConditionModel(**{**settings, **config}), folder, "unet", by=0.1)
    DDIMScheduler(
        beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    ).save_pretrained(folder / "scheduler")  # fmt: skip
    _save_tiny_vae(folder, in_channels=1, out_channels=1, scaling_factor=0.9)
    classes = {"vae": ["diffusers", "AutoencoderKL"], "unet": ["diffusers", "UNet2DConditionModel"]}
    if vocoder:
        sounding = SpeechT5HifiGanConfig(
            model_in_dim=8, sampling_rate=1000, upsample_rates=[4, 2], upsample_kernel_sizes=[7, 4],
            upsample_initial_channel=8, resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1, 3]],
            normalize_before=True,
        )  # fmt: skip
        _save_stirred(SpeechT5HifiGan(sounding).eval(), folder, "vocoder", by=0.4)
        classes["vocoder"] = ["transformers", "SpeechT5HifiGan"]
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "MusicLDMPipeline", **classes}))
    return folder


def _save_stirred(denoiser: object, folder: Path, part: str = "transformer", by: float = 0.02) -> None:
    """diffusers leaves some parameters at zero, where nothing could be compared."""
    import torch
    from diffusers import ModelMixin
    from transformers import PreTrainedModel

    assert isinstance(denoiser, (ModelMixin, PreTrainedModel))
    for parameter in denoiser.parameters():
        parameter.data += by * torch.randn_like(parameter)
    denoiser.save_pretrained(folder / part)


def _save_tiny_vae(folder: Path, **config: object) -> None:
    """4 latent channels, one latent for 2 x 2 pixels."""
    from diffusers import AutoencoderKL

    settings = {
        "block_out_channels": (8, 8), "layers_per_block": 1, "norm_num_groups": 4, "latent_channels": 4,
        "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
    }  # fmt: skip
    AutoencoderKL(**{**settings, **config}).save_pretrained(folder / "vae")
