"""Train the built-in `scenes` model: a Stable Diffusion (UNet, CLIP) that draws coloured shapes from a caption.

    python scripts/train_scenes.py                  # every stage that has not been done yet, then the score
    python scripts/train_scenes.py --stage score    # score what is there

Stages: text, unet, score. Each goes on from its checkpoint in build/train, leaves its part of the diffusers folder
build/train/scenes and a line in training.json; the package has a copy of that folder. Autoencoder: that of `shapes`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from scene_data import number_captions, training_latents
from scene_language import MAX_TOKENS, WORDS, learn_scenes
from scene_score import finish_folder, save_autoencoder, score_pipeline
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import models, pre_tokenizers, trainers
from torch import Tensor, nn
from training import BUILTIN_FOLDER, WORK_FOLDER, optimise, read_settings, run_stages, save_half
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

OUT = WORK_FOLDER / "scenes"
CAPTION_DROPOUT = 0.1
GUIDANCE, STEPS = 3.0, 25
START, END = "<|startoftext|>", "<|endoftext|>"
PIPELINE = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def build_tokenizer() -> CLIPTokenizer:
    """Byte pairs merged until every word of the captions is one piece."""
    learner = FastTokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=2000, initial_alphabet=letters, end_of_word_suffix="</w>", show_progress=False, min_frequency=1
    )
    learner.train_from_iterator([" ".join(WORDS)], trainer)
    learned = json.loads(learner.to_str())["model"]
    merges = [tuple(pair) for pair in learned["merges"]]
    pieces = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges), START, END]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=128, intermediate_size=256, projection_dim=128, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=MAX_TOKENS, hidden_act="quick_gelu",
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip


def build_unet() -> UNet2DConditionModel:
    """Attention on 16x16 and 8x8 latents, heads of 32."""
    return UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(64, 96, 128), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=128, attention_head_dim=(2, 3, 4), norm_num_groups=32,
    )  # fmt: skip


def build_scheduler() -> DDIMScheduler:
    """v-prediction (Salimans & Ho 2022) and betas down to pure noise, where colours are decided; `trailing` starts
    there."""
    return DDIMScheduler(
        num_train_timesteps=1000, beta_start=0.0001, beta_end=0.02, beta_schedule="linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1, prediction_type="v_prediction", timestep_spacing="trailing",
    )  # fmt: skip


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Token ids [n, 24]."""
    return tokenizer(captions, padding="max_length", max_length=MAX_TOKENS, return_tensors="pt").input_ids


def train_text_encoder(iterations: int) -> dict[str, Any]:
    """The attention is causal: the end of a caption, and what follows it, must tell the scene."""
    torch.manual_seed(4)
    tokenizer = build_tokenizer()
    encoder = build_text_encoder(tokenizer)

    def read(captions: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        ids = tokenize(tokenizer, captions)
        return ids, torch.ones_like(ids), ids == tokenizer.eos_token_id

    learned = learn_scenes("scenes-text", encoder, encoder.config.hidden_size, iterations, read)
    tokenizer.save_pretrained(OUT / "tokenizer")
    encoder.save_pretrained(OUT / "text_encoder")
    return learned


@torch.no_grad()
def encode_captions(folder: Path, captions: list[str]) -> tuple[Tensor, Tensor]:
    """Captions -> every token's embedding [n, 24, 128] and the pooled one [n, 128]."""
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder").eval()
    ids = tokenize(CLIPTokenizer.from_pretrained(folder / "tokenizer"), captions)
    answers = [encoder(part) for part in ids.split(500)]
    return torch.cat([a.last_hidden_state for a in answers]), torch.cat([a.pooler_output for a in answers])


def compile_for_cpu(module: nn.Module, unet: UNet2DConditionModel) -> Callable[..., Any]:
    """Compile a module around a UNet without what is slow on a CPU.

    That is the backward pass of the fused attention, and of convolutions in bfloat16 to few channels (half a second
    for the last one) or of channels-last pictures of 4x4.
    """
    for part in module.modules():
        if isinstance(part, UNet2DConditionModel | ControlNetModel):
            part.set_attn_processor(AttnProcessor())
    last = unet.conv_out.forward

    def in_single_precision(hidden: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            output: Tensor = last(hidden.float())
            return output

    unet.conv_out.forward = in_single_precision
    return torch.compile(module, options={"layout_optimization": False})


def train_unet(iterations: int, batch: int, rate: float) -> dict[str, Any]:
    """The UNet on cached latents and embeddings; all timesteps weigh the same."""
    torch.manual_seed(3)
    scenes, latents = training_latents(BUILTIN_FOLDER / "shapes/vae")
    captions, told = number_captions(scenes)
    embeddings, _ = encode_captions(OUT, captions)
    scheduler, unet = build_scheduler(), build_unet()
    average, compiled = copy.deepcopy(unet), compile_for_cpu(unet, unet)
    signal, sigma = (a.sqrt().reshape(-1, 1, 1, 1) for a in (scheduler.alphas_cumprod, 1 - scheduler.alphas_cumprod))

    def losses() -> Iterator[Tensor]:
        while True:
            chosen, timestep = torch.randint(len(scenes), (batch,)), torch.randint(1000, (batch,))
            clean = latents[chosen]
            caption = torch.where(torch.rand(batch) < CAPTION_DROPOUT, 0, told[chosen])
            noise = torch.randn_like(clean)
            noisy = signal[timestep] * clean + sigma[timestep] * noise
            with torch.autocast("cpu", torch.bfloat16):
                predicted = compiled(noisy, timestep, embeddings[caption], return_dict=False)[0].float()
            yield (predicted - (signal[timestep] * noise - sigma[timestep] * clean)).pow(2).mean()

    learned = optimise("scenes-unet", unet, losses(), iterations=iterations, rate=rate, average=average)
    save_half(average, OUT / "unet")
    return {"parameters": unet.num_parameters(), "batch": batch, "learning_rate": rate} | learned


def complete_folder() -> None:
    """What is not trained: the scheduler, the autoencoder, prompts to draw, the pipeline's index."""
    build_scheduler().save_pretrained(OUT / "scheduler")
    save_autoencoder(OUT)
    finish_folder(OUT, PIPELINE)


def score(count: int, steps: int, guidance: float) -> dict[str, Any]:
    """Draw held-out prompts with diffusers' own pipeline and have the checker look at them."""
    complete_folder()
    pipeline = StableDiffusionPipeline.from_pretrained(OUT)
    return score_pipeline(OUT, pipeline, count, num_inference_steps=steps, guidance_scale=guidance)


def main() -> None:
    args = read_settings(
        __doc__, ("text", "unet", "score"), text_iterations=800, iterations=2200, batch=64, learning_rate=1e-3,
        prompts=200, steps=STEPS, guidance=GUIDANCE,
    )  # fmt: skip
    stages = {
        "text": lambda: train_text_encoder(args.text_iterations),
        "unet": lambda: train_unet(args.iterations, args.batch, args.learning_rate),
        "score": lambda: score(args.prompts, args.steps, args.guidance),
    }
    run_stages(OUT, stages, args.stage)


if __name__ == "__main__":
    main()
