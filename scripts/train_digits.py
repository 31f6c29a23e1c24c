"""Train the built-in `digits` model: a class-conditional DiT on 8x8 handwritten digits.

    python scripts/train_digits.py                  # train, score, write soda_export/models/builtin/digits
    python scripts/train_digits.py --score-only     # score what is there

Writes diffusers' own folder format (model_index.json, transformer/, scheduler/) plus training.json: the seed,
the loss curve and the scores. About half an hour on 2 cores; exact reproduction needs the same torch build.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, DiTTransformer2DModel

from soda_export.eval.digits import DigitsJudge, load_digits_split

OUT = Path(__file__).parents[1] / "soda_export/models/builtin/digits"
NULL_CLASS = 10
LABEL_DROPOUT = 0.1


def build_model() -> DiTTransformer2DModel:
    return DiTTransformer2DModel(
        num_attention_heads=4, attention_head_dim=24, in_channels=1, out_channels=1, num_layers=6,
        sample_size=8, patch_size=1, num_embeds_ada_norm=NULL_CLASS,
    )


def build_scheduler() -> DDIMScheduler:
    return DDIMScheduler(num_train_timesteps=1000, beta_schedule="linear", clip_sample=False)


def initialise(model: DiTTransformer2DModel) -> None:
    """adaLN-Zero: every gate and the last projection start at zero (Peebles & Xie 2023, section 3.2)."""
    for block in model.transformer_blocks:
        torch.nn.init.zeros_(block.norm1.linear.weight)
        torch.nn.init.zeros_(block.norm1.linear.bias)
    torch.nn.init.zeros_(model.proj_out_2.weight)
    torch.nn.init.zeros_(model.proj_out_2.bias)


def train(args: argparse.Namespace) -> tuple[DiTTransformer2DModel, list[tuple[int, float]]]:
    torch.manual_seed(args.seed)
    split = load_digits_split()
    images, labels = torch.from_numpy(split.train_images), torch.from_numpy(split.train_labels)
    model, scheduler = build_model(), build_scheduler()
    initialise(model)
    # label dropout is done here: diffusers would draw it once per block
    for block in model.transformer_blocks:
        block.norm1.emb.class_embedder.dropout_prob = 0.0
    averaged = copy.deepcopy(model).eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, weight_decay=0.01)
    curve, running, started = [], 0.0, time.time()
    for iteration in range(1, args.iterations + 1):
        warm = min(1.0, iteration / 200)
        rate = args.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * iteration / args.iterations))
        for group in optimizer.param_groups:
            group["lr"] = rate
        chosen = torch.randint(len(images), (args.batch,))
        clean, label = images[chosen], labels[chosen].clone()
        label[torch.rand(args.batch) < LABEL_DROPOUT] = NULL_CLASS
        noise = torch.randn_like(clean)
        timestep = torch.randint(1000, (args.batch,))
        noisy = scheduler.add_noise(clean, noise, timestep)
        predicted = model(noisy, timestep, label).sample
        loss = torch.nn.functional.mse_loss(predicted, noise)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        decay = min(args.ema, (1 + iteration) / (10 + iteration))
        with torch.no_grad():
            for slow, fast in zip(averaged.parameters(), model.parameters(), strict=True):
                slow.lerp_(fast, 1 - decay)
        running += loss.item()
        if iteration % 50 == 0:
            curve.append((iteration, round(running / 50, 5)))
            print(f"{iteration:6d}  loss {running / 50:.4f}  {time.time() - started:.0f} s", flush=True)
            running = 0.0
    return averaged, curve


@torch.no_grad()
def sample(model: DiTTransformer2DModel, labels: np.ndarray, guidance: float, steps: int, seed: int) -> np.ndarray:
    """Plain diffusers DDIM with classifier-free guidance: [n] labels -> [n, 1, 8, 8] images."""
    scheduler = build_scheduler()
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(seed)
    n = len(labels)
    latents = torch.randn((n, 1, 8, 8), generator=generator)
    both = torch.cat([torch.from_numpy(labels), torch.full((n,), NULL_CLASS)])
    for t in scheduler.timesteps:
        conditional, unconditional = model(torch.cat([latents] * 2), t.expand(2 * n), both).sample.chunk(2)
        noise = unconditional + guidance * (conditional - unconditional)
        latents = scheduler.step(noise, t, latents).prev_sample
    return latents.numpy()


def score(model: DiTTransformer2DModel, guidance: float = 1.5, per_class: int = 100) -> dict[str, float]:
    judge, labels = DigitsJudge(), np.repeat(np.arange(10), per_class)
    images = sample(model, labels, guidance, steps=50, seed=1)
    split = load_digits_split()
    return {
        "guidance": guidance,
        "samples": len(labels),
        "classifier_accuracy_on_held_out_real": judge.held_out_accuracy(),
        "sample_accuracy_ddim50": judge.accuracy(images, labels),
        "frechet_samples_to_held_out": judge.frechet_to_held_out(images),
        "frechet_real_training_to_held_out": judge.frechet_to_held_out(split.train_images),
    }


def save(model: DiTTransformer2DModel) -> None:
    model.save_pretrained(OUT / "transformer")
    build_scheduler().save_pretrained(OUT / "scheduler")
    index = {
        "_class_name": "DiTPipeline",
        "transformer": ["diffusers", "DiTTransformer2DModel"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "vae": [None, None],
    }
    (OUT / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--ema", type=float, default=0.9995)
    parser.add_argument("--score-only", action="store_true")
    args = parser.parse_args()
    if args.score_only:
        model = DiTTransformer2DModel.from_pretrained(OUT / "transformer").eval()
        print(json.dumps(score(model), indent=2))
        return
    model, curve = train(args)
    save(model)
    settings = {key: value for key, value in vars(args).items() if key != "score_only"}
    record = {"settings": settings, "scores": score(model), "loss_curve": curve}
    (OUT / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record["scores"], indent=2))


if __name__ == "__main__":
    main()
