"""Train the built-in `shapes` model: a PixArt that draws coloured shapes from a caption, and the judge of its pictures.

    python scripts/train_shapes.py                  # every stage that has not been done yet, then the scores
    python scripts/train_shapes.py --stage score    # score what is there

Stages: checker, vae, text, denoiser, score. Each leaves its part of the diffusers pipeline folder
soda_export/models/builtin/shapes (the checker: soda_export/eval/scene_checker.safetensors) and a line in
training.json. About 90 minutes on 2 cores with bfloat16; exact reproduction needs the same torch build.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
)
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from soda_export.eval.scene_checker import CHECKER_FILE, CheckerNetwork, SceneChecker
from soda_export.eval.scenes import COLOURS, SHAPES, SIZES, Scene, draw_scenes, held_out_prompts, render

OUT = Path(__file__).parents[1] / "soda_export/models/builtin/shapes"
STAGES = ("checker", "vae", "text", "denoiser", "score")
MAX_TOKENS = 24
WORDS = """
    a small large red green blue yellow purple black circle square triangle above below to the left right of
    and an on with picture
""".split()  # noqa: SIM905
CAPTION_DROPOUT = 0.1
GUIDANCE = 7.0  # of the pictures that are judged; at 4.5 colours run into each other
LEAST_SATISFIED = 0.85  # share of held-out prompts
PLACES = {
    "above": ("top", "bottom"), "below": ("bottom", "top"), "to the left of": ("left", "right"),
    "to the right of": ("right", "left"), "": ("centre",),
}  # fmt: skip
"""Relation -> where the first and the second object stand."""
PIPELINE = {
    "_class_name": "PixArtAlphaPipeline",
    "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
    "text_encoder": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "T5Tokenizer"],
    "transformer": ["diffusers", "PixArtTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def build_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(32, 64, 64), layers_per_block=1, norm_num_groups=8, latent_channels=4, sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        mid_block_add_attention=False,
    )  # fmt: skip


def build_tokenizer() -> T5Tokenizer:
    """A word is a piece: the unigram vocabulary of the captions, and pieces of one letter for anything else."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -30.0), ("▁", -6.0)]
    pieces += [("▁" + word, -2.0) for word in WORDS if word != "a"] + [("▁a", -2.0)]
    pieces += [(letter, -12.0) for letter in letters]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=MAX_TOKENS)


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


def optimise(
    parameters: list[nn.Parameter], losses: Iterator[Tensor], *, iterations: int, rate: float, name: str,
    averaged: list[tuple[nn.Module, nn.Module]], ema: float = 0.999, keep: Callable[[], None] = lambda: None,
) -> list[tuple[int, float]]:  # fmt: skip
    """AdamW with warm-up and cosine decay over `losses`; `averaged`: (slow, fast) modules. `keep` is called now and
    then to save what there is. Returns the loss curve."""
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01, fused=True)
    curve, running, started = [], 0.0, time.time()
    for iteration in range(1, iterations + 1):
        warm = min(1.0, iteration / 200)
        for group in optimizer.param_groups:
            group["lr"] = rate * warm * 0.5 * (1 + math.cos(math.pi * iteration / iterations))
        optimizer.zero_grad(set_to_none=True)
        loss = next(losses)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        decay = min(ema, (1 + iteration) / (10 + iteration))
        with torch.no_grad():
            for slow, fast in averaged:
                for s, f in zip(slow.parameters(), fast.parameters(), strict=True):
                    s.lerp_(f, 1 - decay)
        running += loss.item()
        if iteration % 100 == 0:
            curve.append((iteration, round(running / 100, 5)))
            print(f"{name} {iteration:6d}  loss {running / 100:.4f}  {time.time() - started:.0f} s", flush=True)
            running = 0.0
        if iteration % 1000 == 0:
            keep()
    return curve


def render_all(scenes: list[Scene]) -> Tensor:
    """Scenes -> uint8 [n, 3, 64, 64]."""
    return torch.stack([torch.from_numpy((render(scene) * 255).round().astype(np.uint8)) for scene in scenes])


def train_checker(iterations: int) -> dict[str, Any]:
    """The judge: sees rendered scenes, blurred and with noise."""
    torch.manual_seed(1)
    scenes = draw_scenes(20_000, 1, held_out=False)
    pixels, network = render_all(scenes), CheckerNetwork()

    def losses() -> Iterator[Tensor]:
        while True:
            chosen = torch.randint(len(scenes), (128,))
            images = pixels[chosen].float() / 255
            if torch.rand(()) < 0.5:
                images = functional.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
            images = images + torch.rand(128, 1, 1, 1) * 0.06 * torch.randn_like(images)
            yield network.loss(images, [scenes[i] for i in chosen])

    curve = optimise(
        list(network.parameters()), losses(), iterations=iterations, rate=2e-3, name="checker", averaged=[]
    )
    save_file(network.state_dict(), CHECKER_FILE)
    return {"accuracy_on_held_out_scenes": checker_accuracy(), "loss_curve": curve}


def checker_accuracy(count: int = 2000) -> float:
    """Share of rendered scenes with unseen captions that the judge finds to show their caption."""
    scenes = draw_scenes(count, 2, held_out=True)
    return float(np.mean(SceneChecker().satisfied(render_all(scenes).numpy() / np.float32(255), scenes)))


def train_vae(iterations: int) -> dict[str, Any]:
    """Reconstruction (L1 + MSE) with a slight pull to a unit Gaussian."""
    torch.manual_seed(2)
    pixels = render_all(draw_scenes(20_000, 3, held_out=False))
    vae = build_vae().to(memory_format=torch.channels_last)

    def losses() -> Iterator[Tensor]:
        while True:
            images = pixels[torch.randint(len(pixels), (32,))].float() / 127.5 - 1
            images = images.to(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                posterior = vae.encode(images).latent_dist
                decoded = vae.decode(posterior.sample()).sample.float()
            error = decoded - images
            yield error.abs().mean() + (error**2).mean() + 1e-4 * posterior.kl().mean() / 1024

    curve = optimise(list(vae.parameters()), losses(), iterations=iterations, rate=1e-3, name="vae", averaged=[])
    vae = vae.eval()
    latents = encode_all(vae, pixels[:2000])
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    vae.to(memory_format=torch.contiguous_format).save_pretrained(OUT / "vae")
    return {"scaling_factor": vae.config.scaling_factor, "loss_curve": curve}


@torch.no_grad()
def vae_psnr() -> float:
    """dB of the autoencoder's pictures of scenes with unseen captions."""
    vae = AutoencoderKL.from_pretrained(OUT / "vae").eval()
    held_out = render_all(draw_scenes(256, 4, held_out=True)).float() / 127.5 - 1
    decoded = vae.decode(vae.encode(held_out).latent_dist.mode()).sample
    return 10 * math.log10(4 / (decoded - held_out).pow(2).mean().item())


@torch.no_grad()
def encode_all(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """uint8 [n, 3, 64, 64] -> means of the latents [n, 4, 16, 16]."""
    latents = []
    for part in pixels.split(100):
        images = (part.float() / 127.5 - 1).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            latents.append(vae.encode(images).latent_dist.mode().float())
    return torch.cat(latents)


def read_captions(scenes: list[Scene]) -> Tensor:
    """What captions say: int64 [n, 5 places, 3] of colour, shape and size, 0 for nothing or unsaid."""
    places = ["top", "bottom", "left", "right", "centre"]
    said = torch.zeros(len(scenes), len(places), 3, dtype=torch.int64)
    for i, scene in enumerate(scenes):
        for thing, place in zip(scene.things, PLACES[scene.relation], strict=True):
            size = 1 + list(SIZES).index(thing.size) if thing.said_size else 0
            words = (1 + list(COLOURS).index(thing.colour), 1 + SHAPES.index(thing.shape), size)
            said[i, places.index(place)] = torch.tensor(words)
    return said


def train_text_encoder(iterations: int) -> dict[str, Any]:
    """The text encoder learns the language first, as PixArt's T5 has: every word's embedding tells the whole scene.

    A linear reader must find in it what stands at each of five places. The reader is thrown away.
    """
    torch.manual_seed(4)
    tokenizer = build_tokenizer()
    encoder = build_text_encoder(len(tokenizer))
    classes = (1 + len(COLOURS), 1 + len(SHAPES), 1 + len(SIZES))
    reader = nn.Linear(encoder.config.d_model, 5 * sum(classes))

    def wrong(scenes: list[Scene]) -> tuple[Tensor, Tensor]:
        tokens = tokenize(tokenizer, [scene.caption for scene in scenes])
        words = encoder(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        kept = tokens.attention_mask.bool()
        answers = reader(words)[kept].unflatten(-1, (5, -1)).split(classes, dim=-1)
        said = read_captions(scenes)[:, None].expand(-1, MAX_TOKENS, -1, -1)[kept]
        loss = sum(functional.cross_entropy(a.flatten(0, 1), said[..., k].flatten()) for k, a in enumerate(answers))
        right = torch.stack([a.argmax(-1) == said[..., k] for k, a in enumerate(answers)]).all(0).all(-1)
        return loss, 1 - right.float().mean()

    scenes = draw_scenes(60_000, 5, held_out=False)

    def losses() -> Iterator[Tensor]:
        while True:
            yield wrong([scenes[i] for i in torch.randint(len(scenes), (256,))])[0]

    curve = optimise(
        [*encoder.parameters(), *reader.parameters()], losses(), iterations=iterations, rate=3e-3, name="text",
        averaged=[],
    )  # fmt: skip
    with torch.no_grad():
        share = wrong(draw_scenes(1000, 6, held_out=True))[1].item()
    tokenizer.save_pretrained(OUT / "tokenizer")
    encoder.save_pretrained(OUT / "text_encoder")
    return {"words_of_held_out_captions_that_tell_the_scene": 1 - share, "loss_curve": curve}


def tokenize(tokenizer: T5Tokenizer, captions: list[str]) -> Any:
    """Token ids and masks, both [n, 24]."""
    return tokenizer(captions, padding="max_length", max_length=MAX_TOKENS, return_tensors="pt")


def train_denoiser(iterations: int, batch: int, rate: float, resume: bool) -> dict[str, Any]:
    """The transformer; autoencoder and text encoder stay as they are. resume: go on from what the folder has.

    All timesteps weigh the same: with min-SNR weights, which favour the little noisy ones, it took many times as long
    until colours and places went to the right objects, because that is decided while there is mostly noise.
    """
    torch.manual_seed(3)
    vae = AutoencoderKL.from_pretrained(OUT / "vae").eval()
    scenes = draw_scenes(60_000, 5, held_out=False)
    latents = torch.cat([
        encode_all(vae, render_all(scenes[i : i + 5000])) for i in range(0, len(scenes), 5000)
    ]).contiguous() * vae.config.scaling_factor  # fmt: skip
    print(f"latents: {tuple(latents.shape)}, std {latents.std():.3f}, mean {latents.mean():.3f}", flush=True)
    captions = ["", *dict.fromkeys(scene.caption for scene in scenes)]
    embeddings, masks = encode_captions(captions)
    numbers = {caption: number for number, caption in enumerate(captions)}
    told = torch.tensor([numbers[scene.caption] for scene in scenes])
    transformer, scheduler = build_transformer(), build_scheduler()
    if resume:
        transformer = PixArtTransformer2DModel.from_pretrained(OUT / "transformer").float().train()
    # the fused attention's backward pass takes half of an iteration on a CPU
    transformer.set_attn_processor(AttnProcessor())
    slow, compiled = copy.deepcopy(transformer), torch.compile(transformer)
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

    curve = optimise(
        list(transformer.parameters()), losses(), iterations=iterations, rate=rate, name="denoiser",
        averaged=[(slow, transformer)], keep=lambda: save_denoiser(slow, scheduler),
    )  # fmt: skip
    save_denoiser(slow, scheduler)
    return {"parameters": sum(p.numel() for p in transformer.parameters()), "batch": batch, "loss_curve": curve}


@torch.no_grad()
def encode_captions(captions: list[str]) -> tuple[Tensor, Tensor]:
    """Captions -> embeddings float32 [n, 24, 128] and masks int64 [n, 24]."""
    encoder, tokenizer = T5EncoderModel.from_pretrained(OUT / "text_encoder").eval(), build_tokenizer()
    embeddings, masks = [], []
    for i in range(0, len(captions), 500):
        tokens = tokenize(tokenizer, captions[i : i + 500])
        embeddings.append(encoder(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state)
        masks.append(tokens.attention_mask)
    return torch.cat(embeddings), torch.cat(masks)


def save_denoiser(transformer: PixArtTransformer2DModel, scheduler: DPMSolverMultistepScheduler) -> None:
    """The transformer, in half precision (24 MB are for everything), and its scheduler."""
    copy.deepcopy(transformer).eval().half().save_pretrained(OUT / "transformer")
    config_file = OUT / "transformer/config.json"
    config = json.loads(config_file.read_text())
    config.pop("_name_or_path", None)  # where a resumed model was read from
    config_file.write_text(json.dumps(config, indent=2) + "\n")
    scheduler.save_pretrained(OUT / "scheduler")


def score(count: int = 200, steps: int = 20, guidance: float = GUIDANCE) -> dict[str, Any]:
    """Draw held-out prompts with diffusers' own pipeline and have the checker look at them.

    The folder becomes a pipeline, and so a model that the package offers, only if the bar is met.
    """
    index_file = OUT / "model_index.json"
    index_file.write_text(json.dumps(PIPELINE, indent=2) + "\n")
    (OUT / "prompts.txt").write_text("".join(f"{s.caption}\n" for s in draw_scenes(32, 9, held_out=False)))
    pipeline = PixArtAlphaPipeline.from_pretrained(OUT)
    pipeline.set_progress_bar_config(disable=True)
    scenes = held_out_prompts(count)
    images = []
    for i in range(0, count, 25):
        images.append(
            pipeline(
                [scene.caption for scene in scenes[i : i + 25]], num_inference_steps=steps, guidance_scale=guidance,
                generator=torch.Generator().manual_seed(1000 + i), use_resolution_binning=False, clean_caption=False,
                max_sequence_length=MAX_TOKENS, output_type="np",
            ).images
        )  # fmt: skip
    drawn = np.concatenate(images).transpose(0, 3, 1, 2)
    kept = SceneChecker().satisfied(drawn, scenes)
    two_objects = [bool(s.relation) for s in scenes]
    if np.mean(kept) < LEAST_SATISFIED:
        index_file.unlink()
    return {
        "prompts": count, "steps": steps, "guidance": guidance, "satisfied": float(np.mean(kept)),
        "satisfied_with_two_objects": float(np.mean([k for k, two in zip(kept, two_objects, strict=True) if two])),
        "checker_accuracy_on_held_out_scenes": checker_accuracy(), "vae_psnr_on_held_out_scenes": vae_psnr(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=STAGES, help="this stage alone; default: every stage not done yet")
    parser.add_argument("--checker-iterations", type=int, default=1500)
    parser.add_argument("--vae-iterations", type=int, default=1500)
    parser.add_argument("--text-iterations", type=int, default=1500)
    parser.add_argument("--iterations", type=int, default=5000, help="of the denoiser")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--resume", action="store_true", help="go on with the denoiser that is there")
    args = parser.parse_args()
    record_file = OUT / "training.json"
    record = json.loads(record_file.read_text()) if record_file.is_file() else {}
    work = {
        "checker": lambda: train_checker(args.checker_iterations),
        "vae": lambda: train_vae(args.vae_iterations),
        "text": lambda: train_text_encoder(args.text_iterations),
        "denoiser": lambda: train_denoiser(args.iterations, args.batch, args.learning_rate, args.resume),
        "score": score,
    }
    for stage in STAGES:
        if args.stage == stage or (args.stage is None and (stage == "score" or stage not in record)):
            started = time.time()
            record[stage] = work[stage]() | {"seconds": round(time.time() - started)}
            OUT.mkdir(parents=True, exist_ok=True)
            record_file.write_text(json.dumps(record, indent=1) + "\n")
            print(stage, {k: v for k, v in record[stage].items() if k != "loss_curve"}, flush=True)


if __name__ == "__main__":
    main()
