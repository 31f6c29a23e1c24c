"""Train the ControlNet of `scenes`: silhouettes of the objects, white on black, say where and what to draw.

    python scripts/train_silhouettes.py                  # train what has not been trained yet, then the scores
    python scripts/train_silhouettes.py --stage score    # score what is there

The UNet of build/train/scenes stays as it is. The result is the folder `controlnet` beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, UNet2DConditionModel
from numpy.typing import NDArray
from PIL import Image
from scene_data import number_captions, training_latents
from scene_score import draw_held_out, judge, prompt_scenes
from torch import Tensor, nn
from train_scenes import CAPTION_DROPOUT, GUIDANCE, OUT, STEPS, build_scheduler, compile_for_cpu, encode_captions
from training import BUILTIN_FOLDER, optimise, read_settings, run_stages, save_half

from soda_export.eval.scenes import Scene, silhouette, silhouette_overlaps

USED_SCENES = 20_000  # the silhouettes of all 60,000 would only take time to render
LEAST_OVERLAP = 0.8


class Steered(nn.Module):
    """A UNet with its ControlNet."""

    def __init__(self, unet: UNet2DConditionModel, controlnet: ControlNetModel) -> None:
        super().__init__()
        self.unet, self.controlnet = unet, controlnet

    def forward(self, noisy: Tensor, timestep: Tensor, text: Tensor, hint: Tensor) -> Tensor:
        down, mid = self.controlnet(noisy, timestep, text, hint, return_dict=False)
        predicted: Tensor = self.unet(
            noisy, timestep, text, down_block_additional_residuals=down, mid_block_additional_residual=mid,
            return_dict=False,
        )[0]  # fmt: skip
        return predicted


def build_controlnet(unet: UNet2DConditionModel) -> ControlNetModel:
    """A copy of the UNet's encoder; the hint comes down from 64x64 to 16x16 in two strides."""
    return ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32, 64))


def draw_hints(scenes: list[Scene]) -> Tensor:
    """Scenes -> silhouettes, 0 or 1, uint8 [n, 3, 64, 64]."""
    return torch.stack([torch.from_numpy(silhouette(scene).astype(np.uint8)) for scene in scenes])


def save_hints(folder: Path) -> None:
    """What the prompts of the model show, as silhouettes: what it is profiled on."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, scene in enumerate(prompt_scenes()):
        picture = draw_hints([scene])[0].permute(1, 2, 0).numpy() * 255
        Image.fromarray(picture).convert("1").save(folder / f"{number:02}.png", optimize=True)


def train_controlnet(iterations: int, batch: int, rate: float) -> dict[str, Any]:
    torch.manual_seed(8)
    scenes, latents = training_latents(BUILTIN_FOLDER / "shapes/vae")
    captions, told = number_captions(scenes)
    embeddings, _ = encode_captions(OUT, captions)
    hints = torch.cat([draw_hints(scenes[i : i + 2000]) for i in range(0, USED_SCENES, 2000)])
    unet = UNet2DConditionModel.from_pretrained(OUT / "unet").float().requires_grad_(False)
    controlnet, scheduler = build_controlnet(unet), build_scheduler()
    compiled = compile_for_cpu(Steered(unet, controlnet), unet)
    signal, sigma = (a.sqrt().reshape(-1, 1, 1, 1) for a in (scheduler.alphas_cumprod, 1 - scheduler.alphas_cumprod))

    def losses() -> Iterator[Tensor]:
        while True:
            chosen, timestep = torch.randint(USED_SCENES, (batch,)), torch.randint(1000, (batch,))
            clean = latents[chosen]
            caption = torch.where(torch.rand(batch) < CAPTION_DROPOUT, 0, told[chosen])
            noise = torch.randn_like(clean)
            noisy = signal[timestep] * clean + sigma[timestep] * noise
            with torch.autocast("cpu", torch.bfloat16):
                predicted = compiled(noisy, timestep, embeddings[caption], hints[chosen].float()).float()
            yield (predicted - (signal[timestep] * noise - sigma[timestep] * clean)).pow(2).mean()

    learned = optimise("scenes-controlnet", controlnet, losses(), iterations=iterations, rate=rate)
    save_half(controlnet, OUT / "controlnet")
    save_hints(OUT / "controlnet/hints")
    return {"parameters": controlnet.num_parameters(), "batch": batch, "learning_rate": rate} | learned


def score(count: int, steps: int, guidance: float) -> dict[str, Any]:
    """Held-out prompts with their scenes' silhouettes. overlap: mean IoU of drawn and given silhouettes."""
    controlnet = ControlNetModel.from_pretrained(OUT / "controlnet")
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(OUT, controlnet=controlnet)
    pipeline.set_progress_bar_config(disable=True)

    def draw(scenes: list[Scene], seed: int) -> NDArray[np.float32]:
        return pipeline(
            [scene.caption for scene in scenes], image=draw_hints(scenes).float(), num_inference_steps=steps,
            guidance_scale=guidance, generator=torch.Generator().manual_seed(seed), output_type="np",
        ).images  # fmt: skip

    scenes, images = draw_held_out(draw, count)
    overlaps = silhouette_overlaps(images, scenes)
    return {
        "steps": steps, "guidance": guidance, "overlap": float(overlaps.mean()),
        "share_of_pictures_that_overlap_enough": float((overlaps >= LEAST_OVERLAP).mean()),
    } | judge(scenes, images)  # fmt: skip


def main() -> None:
    args = read_settings(
        __doc__, ("controlnet", "controlnet score"), iterations=1000, batch=64, learning_rate=5e-4, prompts=200,
        steps=STEPS, guidance=GUIDANCE,
    )  # fmt: skip
    stages = {
        "controlnet": lambda: train_controlnet(args.iterations, args.batch, args.learning_rate),
        "controlnet score": lambda: score(args.prompts, args.steps, args.guidance),
    }
    run_stages(OUT, stages, args.stage)


if __name__ == "__main__":
    main()
