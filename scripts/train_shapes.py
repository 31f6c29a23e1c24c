"""Train the built-in `shapes` model: a PixArt that draws coloured shapes from a caption, and the judge of its pictures.

    python scripts/train_shapes.py                  # every stage that has not been done yet, then the scores
    python scripts/train_shapes.py --stage score    # score what is there

Stages: checker, vae, text, denoiser, score. Each goes on from its checkpoint in build/train and leaves its part of the
diffusers pipeline folder soda_export/models/builtin/shapes (the checker: soda_export/eval/scene_checker.safetensors)
and a line in training.json. About 90 minutes on 2 cores with bfloat16; exact reproduction needs the same torch build.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel
from diffusers.models.attention_processor import AttnProcessor
from numpy.typing import NDArray
from scene_autoencoder import train_vae, vae_psnr
from scene_data import number_captions, training_latents
from scene_language import MAX_TOKENS, WORDS, learn_scenes
from scene_score import LEAST_SATISFIED, checker_accuracy, draw_held_out, judge, prompt_scenes, train_checker
from torch import Tensor
from training import BUILTIN_FOLDER, optimise, read_settings, run_stages, save_half
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from soda_export.eval.scene_checker import CHECKER_FILE
from soda_export.eval.scenes import Scene, draw_scenes

OUT = BUILTIN_FOLDER / "shapes"
CAPTION_DROPOUT = 0.1
GUIDANCE, STEPS = 7.0, 20  # of the pictures that are judged; at 4.5 colours run into each other
PIPELINE = {
    "_class_name": "PixArtAlphaPipeline",
    "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
    "text_encoder": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "T5Tokenizer"],
    "transformer": ["diffusers", "PixArtTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def build_tokenizer(words: Sequence[str] = WORDS, tokens: int = MAX_TOKENS) -> T5Tokenizer:
    """A word is a piece: the unigram vocabulary of the captions, and pieces of one letter for anything else."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -30.0), ("▁", -6.0)]
    pieces += [("▁" + word, -2.0) for word in words if word != "a"] + [("▁a", -2.0)]
    pieces += [(letter, -12.0) for letter in letters]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=tokens)


def build_text_encoder(vocabulary: int) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=vocabulary, d_model=128, d_kv=32, num_heads=4, d_ff=256, num_layers=2, dropout_rate=0.0,
            feed_forward_proj="gated-gelu", is_encoder_decoder=False, use_cache=False,
        )
    )  # fmt: skip


def build_transformer() -> PixArtTransformer2DModel:
    return PixArtTransformer2DModel(
        num_attention_heads=6, attention_head_dim=32, in_channels=4, out_channels=4, num_layers=6,
        cross_attention_dim=192, caption_channels=128, sample_size=16, patch_size=2, use_additional_conditions=False,
    )  # fmt: skip


def build_scheduler() -> DPMSolverMultistepScheduler:
    """v-prediction (Salimans & Ho 2022): at the noisiest steps, where colours are decided, noise tells little."""
    return DPMSolverMultistepScheduler(
        num_train_timesteps=1000, beta_start=0.0001, beta_end=0.02, beta_schedule="linear", solver_order=2,
        algorithm_type="dpmsolver++", prediction_type="v_prediction",
    )  # fmt: skip


def tokenize(tokenizer: T5Tokenizer, captions: list[str]) -> Any:
    """Token ids and masks, both [n, 24]."""
    return tokenizer(captions, padding="max_length", max_length=MAX_TOKENS, return_tensors="pt")


def train_scene_checker(iterations: int) -> dict[str, Any]:
    """The judge of scenes."""
    learned = train_checker("checker", draw_scenes(20_000, 1, held_out=False), CHECKER_FILE, iterations)
    return {"accuracy_on_held_out_scenes": checker_accuracy()} | learned


def train_text_encoder(iterations: int) -> dict[str, Any]:
    """As PixArt's T5 has learned the language first: every word's embedding tells the whole scene."""
    torch.manual_seed(4)
    tokenizer = build_tokenizer()
    encoder = build_text_encoder(len(tokenizer))

    def read(captions: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        tokens = tokenize(tokenizer, captions)
        return tokens.input_ids, tokens.attention_mask, tokens.attention_mask.bool()

    learned = learn_scenes("shapes-text", encoder, encoder.config.d_model, iterations, read)
    tokenizer.save_pretrained(OUT / "tokenizer")
    encoder.save_pretrained(OUT / "text_encoder")
    return learned


def train_denoiser(iterations: int, batch: int, rate: float) -> dict[str, Any]:
    """The transformer; autoencoder and text encoder stay as they are.

    All timesteps weigh the same: with min-SNR weights, which favour the little noisy ones, it took many times as long
    until colours and places went to the right objects, because that is decided while there is mostly noise.
    """
    torch.manual_seed(3)
    scenes, latents = training_latents(OUT / "vae")
    captions, told = number_captions(scenes)
    embeddings, masks = encode_captions(captions)
    transformer, scheduler = build_transformer(), build_scheduler()
    # the fused attention's backward pass takes half of an iteration on a CPU
    transformer.set_attn_processor(AttnProcessor())
    average, compiled = copy.deepcopy(transformer), torch.compile(transformer)
    signal, sigma = (a.sqrt().reshape(-1, 1, 1, 1) for a in (scheduler.alphas_cumprod, 1 - scheduler.alphas_cumprod))

    def losses() -> Iterator[Tensor]:
        while True:
            chosen = torch.randint(len(scenes), (batch,))
            clean = latents[chosen]
            caption = torch.where(torch.rand(batch) < CAPTION_DROPOUT, 0, told[chosen])
            noise, timestep = torch.randn_like(clean), torch.randint(1000, (batch,))
            noisy = scheduler.add_noise(clean, noise, timestep)
            with torch.autocast("cpu", torch.bfloat16):
                predicted = compiled(
                    noisy, embeddings[caption], timestep=timestep, encoder_attention_mask=masks[caption],
                    added_cond_kwargs={"resolution": None, "aspect_ratio": None},
                ).sample.float()  # fmt: skip
            velocity = signal[timestep] * noise - sigma[timestep] * clean
            yield (predicted - velocity).pow(2).mean()

    learned = optimise(
        "shapes-denoiser", transformer, losses(), iterations=iterations, rate=rate, average=average
    )
    save_half(average, OUT / "transformer")
    scheduler.save_pretrained(OUT / "scheduler")
    return {"parameters": transformer.num_parameters(), "batch": batch} | learned


@torch.no_grad()
def encode_captions(captions: list[str]) -> tuple[Tensor, Tensor]:
    """Captions -> embeddings float32 [n, 24, 128] and masks int64 [n, 24]."""
    encoder, tokens = T5EncoderModel.from_pretrained(OUT / "text_encoder").eval(), tokenize(build_tokenizer(), captions)
    parts = zip(tokens.input_ids.split(500), tokens.attention_mask.split(500), strict=True)
    embeddings = [encoder(ids, attention_mask=mask).last_hidden_state for ids, mask in parts]
    return torch.cat(embeddings), tokens.attention_mask


def score(count: int = 200, steps: int = STEPS, guidance: float = GUIDANCE) -> dict[str, Any]:
    """Draw held-out prompts with diffusers' own pipeline and have the checker look at them.

    The folder becomes a pipeline, and so a model that the package offers, only if the bar is met.
    """
    index_file = OUT / "model_index.json"
    index_file.write_text(json.dumps(PIPELINE, indent=2) + "\n")
    (OUT / "prompts.txt").write_text("".join(f"{s.caption}\n" for s in prompt_scenes()))
    pipeline = PixArtAlphaPipeline.from_pretrained(OUT)
    pipeline.set_progress_bar_config(disable=True)

    def draw(scenes: list[Scene], seed: int) -> NDArray[np.float32]:
        images: NDArray[np.float32] = pipeline(
            [scene.caption for scene in scenes], num_inference_steps=steps, guidance_scale=guidance, output_type="np",
            generator=torch.Generator().manual_seed(seed), use_resolution_binning=False, clean_caption=False,
            max_sequence_length=MAX_TOKENS,
        ).images  # fmt: skip
        return images

    scores = judge(*draw_held_out(draw, count))
    if scores["satisfied"] < LEAST_SATISFIED:
        index_file.unlink()
    return {"steps": steps, "guidance": guidance} | scores | {
        "checker_accuracy_on_held_out_scenes": checker_accuracy(),
        "vae_psnr_on_held_out_scenes": vae_psnr(OUT / "vae"),
    }  # fmt: skip


def main() -> None:
    args = read_settings(
        __doc__, ("checker", "vae", "text", "denoiser", "score"), checker_iterations=1500, vae_iterations=1500,
        text_iterations=1500, iterations=5000, batch=64, learning_rate=1e-3,
    )  # fmt: skip
    work = {
        "checker": lambda: train_scene_checker(args.checker_iterations),
        "vae": lambda: train_vae(OUT / "vae", args.vae_iterations),
        "text": lambda: train_text_encoder(args.text_iterations),
        "denoiser": lambda: train_denoiser(args.iterations, args.batch, args.learning_rate),
        "score": score,
    }
    run_stages(OUT, work, args.stage)


if __name__ == "__main__":
    main()
