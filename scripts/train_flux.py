"""Train the built-in `shapes-flux` model: a small FLUX that draws coloured shapes from a caption.

    python scripts/train_flux.py                  # every stage that has not been done yet, then the score
    python scripts/train_flux.py --stage score    # score what is there

Stages: flow, score, in build/train/shapes-flux. Autoencoder and T5 are those of `shapes`, CLIP that of `scenes`.
As FLUX.1-schnell, and unlike FLUX.1-dev, it takes no guidance: the captions are simple enough without.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from scene_data import number_captions, training_latents
from scene_score import finish_folder, save_autoencoder, score_pipeline
from torch import Tensor
from train_scenes import CAPTION_DROPOUT, MAX_TOKENS, encode_captions
from train_scenes import OUT as SCENES
from training import BUILTIN_FOLDER, WORK_FOLDER, optimise, read_settings, run_stages, save_half
from transformers import T5EncoderModel, T5Tokenizer

OUT, SHAPES = WORK_FOLDER / "shapes-flux", BUILTIN_FOLDER / "shapes"
SHIFT = 2.0  # of the noise levels, in training and in drawing: more of the noisy ones, where colours are decided
STEPS = 25
PIPELINE = {
    "_class_name": "FluxPipeline",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "T5Tokenizer"],
    "transformer": ["diffusers", "FluxTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def build_transformer() -> FluxTransformer2DModel:
    return FluxTransformer2DModel(
        in_channels=16, num_layers=2, num_single_layers=4, attention_head_dim=32, num_attention_heads=6,
        joint_attention_dim=128, pooled_projection_dim=128, axes_dims_rope=(4, 14, 14),
    )  # fmt: skip


@torch.no_grad()
def encode_words(captions: list[str]) -> Tensor:
    """T5's embeddings [n, 24, 128]; as in FLUX, without a mask."""
    encoder = T5EncoderModel.from_pretrained(SHAPES / "text_encoder").eval()
    tokenizer = T5Tokenizer.from_pretrained(SHAPES / "tokenizer")
    ids = tokenizer(captions, padding="max_length", max_length=MAX_TOKENS, return_tensors="pt").input_ids
    return torch.cat([encoder(part).last_hidden_state for part in ids.split(500)])


class Batches:
    """Noisy packed latents [n, 64, 16] and all else that a step of training needs."""

    def __init__(self, batch: int) -> None:
        # the fused attention's backward pass is slow on a CPU
        torch.backends.cuda.enable_flash_sdp(False)
        scenes, latents = training_latents(SHAPES / "vae")
        captions, self._told = number_captions(scenes)
        self._words, self._pooled = encode_words(captions), encode_captions(SCENES, captions)[1]
        self._latents = FluxPipeline._pack_latents(latents, len(latents), 4, 16, 16)
        places = FluxPipeline._prepare_latent_image_ids(1, 8, 8, "cpu", torch.float32)
        self._ids = {"img_ids": places, "txt_ids": torch.zeros(MAX_TOKENS, 3)}
        self.batch = batch

    def draw(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Noisy latents, noise level [n], numbers of the captions, and the velocity from picture to noise."""
        chosen, level = torch.randint(len(self._latents), (self.batch,)), torch.rand(self.batch)
        level = SHIFT * level / (1 + (SHIFT - 1) * level)
        clean, share = self._latents[chosen], level[:, None, None]
        noise = torch.randn_like(clean)
        return (1 - share) * clean + share * noise, level, self._told[chosen], noise - clean

    def predict(self, model: Callable[..., Any], noisy: Tensor, level: Tensor, caption: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            velocity: Tensor = model(
                noisy, self._words[caption], self._pooled[caption], level, return_dict=False, **self._ids
            )[0]
        return velocity.float()


def train_flow(iterations: int, batch: int, rate: float) -> dict[str, Any]:
    """Rectified flow (Liu et al. 2022)."""
    torch.manual_seed(10)
    batches, transformer = Batches(batch), build_transformer()
    average, compiled = copy.deepcopy(transformer), torch.compile(transformer)

    def losses() -> Iterator[Tensor]:
        while True:
            noisy, level, caption, velocity = batches.draw()
            caption = torch.where(torch.rand(batch) < CAPTION_DROPOUT, 0, caption)
            predicted = batches.predict(compiled, noisy, level, caption)
            yield (predicted - velocity).pow(2).mean()

    learned = optimise("flux-flow", transformer, losses(), iterations=iterations, rate=rate, average=average)
    save_half(average, OUT / "transformer")
    return {"parameters": transformer.num_parameters(), "batch": batch, "learning_rate": rate} | learned


def complete_folder() -> None:
    """What is not trained here: text encoders, autoencoder, scheduler, prompts to draw, the pipeline's index."""
    FlowMatchEulerDiscreteScheduler(shift=SHIFT).save_pretrained(OUT / "scheduler")
    save_autoencoder(OUT, shift_factor=0.0)
    for part in ("text_encoder", "tokenizer"):
        shutil.copytree(SCENES / part, OUT / part, dirs_exist_ok=True)
        shutil.copytree(SHAPES / part, OUT / f"{part}_2", dirs_exist_ok=True)
    finish_folder(OUT, PIPELINE)


def score(count: int, steps: int) -> dict[str, Any]:
    """Draw held-out prompts with diffusers' own pipeline and have the checker look at them."""
    complete_folder()
    return score_pipeline(
        OUT, FluxPipeline.from_pretrained(OUT), count, num_inference_steps=steps, guidance_scale=1.0,
        max_sequence_length=MAX_TOKENS,
    )  # fmt: skip


def main() -> None:
    args = read_settings(
        __doc__, ("flow", "score"), iterations=2500, batch=64, learning_rate=1e-3, prompts=200, steps=STEPS,
    )  # fmt: skip
    stages = {
        "flow": lambda: train_flow(args.iterations, args.batch, args.learning_rate),
        "score": lambda: score(args.prompts, args.steps),
    }
    run_stages(OUT, stages, args.stage)


if __name__ == "__main__":
    main()
