"""Train the judge of pictures; and a pipeline's pictures of held-out prompts -> the share that it finds right."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from safetensors.torch import save_file
from scene_data import render_all
from torch import Tensor
from torch.nn import functional
from training import BUILTIN_FOLDER, optimise

from soda_export.eval.scene_checker import CheckerNetwork, SceneChecker
from soda_export.eval.scenes import IMAGE_SIZE, Scene, draw_scenes, held_out_prompts

LEAST_SATISFIED = 0.85
_BATCH = 25


def draw_held_out(
    draw: Callable[[list[Scene], int], NDArray[np.float32]], count: int
) -> tuple[list[Scene], NDArray[np.float32]]:
    """draw: scenes and a seed -> images [n, 64, 64, 3] in 0..1. Returns scenes and images [n, 3, 64, 64]."""
    scenes = held_out_prompts(count)
    drawn = [draw(scenes[i : i + _BATCH], 1000 + i) for i in range(0, count, _BATCH)]
    return scenes, np.concatenate(drawn).transpose(0, 3, 1, 2)


def judge(scenes: list[Scene], images: NDArray[np.float32]) -> dict[str, Any]:
    kept = SceneChecker().satisfied(images, scenes)
    two_objects = [k for k, scene in zip(kept, scenes, strict=True) if scene.relation]
    return {
        "prompts": len(scenes), "satisfied": float(np.mean(kept)),
        "satisfied_with_two_objects": float(np.mean(two_objects)),
    }  # fmt: skip


def save_autoencoder(folder: Path, **settings: float) -> None:
    """That of `shapes` as a pipeline's, with other settings where it needs them."""
    vae = AutoencoderKL.from_pretrained(BUILTIN_FOLDER / "shapes/vae").half()
    vae.register_to_config(_name_or_path="shapes/vae", **settings)  # else it is a path of this machine
    vae.save_pretrained(folder / "vae")


def prompt_scenes() -> list[Scene]:
    """What the prompts of a model's folder say."""
    return draw_scenes(64, 9, held_out=False)


def finish_folder(folder: Path, index: dict[str, Any]) -> None:
    """Prompts to draw, and the pipeline's index."""
    (folder / "prompts.txt").write_text("".join(f"{s.caption}\n" for s in prompt_scenes()))
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def score_pipeline(folder: Path, pipeline: Any, count: int, **settings: Any) -> dict[str, Any]:
    """Draw held-out prompts with diffusers' own pipeline and have the checker look at them. A pipeline that draws too
    few of them right loses its index, so that it is no model."""
    pipeline.set_progress_bar_config(disable=True)

    def draw(scenes: list[Scene], seed: int) -> NDArray[np.float32]:
        return pipeline(  # type: ignore[no-any-return]
            [scene.caption for scene in scenes], generator=torch.Generator().manual_seed(seed), height=IMAGE_SIZE,
            width=IMAGE_SIZE, output_type="np", **settings,
        ).images  # fmt: skip

    scores = judge(*draw_held_out(draw, count))
    if scores["satisfied"] < LEAST_SATISFIED:
        (folder / "model_index.json").unlink()
    return {"steps": settings["num_inference_steps"], "guidance": settings["guidance_scale"]} | scores


def train_checker(name: str, scenes: list[Scene], file: Path, iterations: int) -> dict[str, Any]:
    """A judge of pictures: sees rendered scenes, blurred and with noise."""
    torch.manual_seed(1)
    pixels, network = render_all(scenes), CheckerNetwork()

    def losses() -> Iterator[Tensor]:
        while True:
            chosen = torch.randint(len(scenes), (128,))
            images = pixels[chosen].float() / 255
            if torch.rand(()) < 0.5:
                images = functional.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
            images = images + torch.rand(128, 1, 1, 1) * 0.06 * torch.randn_like(images)
            yield network.loss(images, [scenes[i] for i in chosen])

    learned = optimise(name, network, losses(), iterations=iterations, rate=2e-3)
    save_file(network.state_dict(), file)
    return learned


def checker_accuracy(count: int = 2000) -> float:
    """Share of rendered scenes with unseen captions that the judge finds to show their caption."""
    scenes = draw_scenes(count, 2, held_out=True)
    return float(np.mean(SceneChecker().satisfied(render_all(scenes).numpy() / np.float32(255), scenes)))
