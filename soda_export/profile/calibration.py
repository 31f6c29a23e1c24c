"""What the generations of a profile are conditioned on: labels in turn, prompts, or given text embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..errors import UsageError
from ..models.denoiser import LabelRows, TextRows, label_rows
from ..models.spec import DenoiserSpec, LabelCondition, TextCondition


@dataclass(frozen=True)
class TextSamples:
    """Embeddings [n, T, E] and masks [n, T] of the samples' texts, and of what guidance steers away from [1, ...]."""

    embeds: Tensor
    mask: Tensor
    negative_embeds: Tensor
    negative_mask: Tensor


@dataclass(frozen=True)
class LabelCalibration:
    """Every class in turn."""

    spec: DenoiserSpec
    rows: int

    def __call__(self, batch: Sequence[int]) -> LabelRows:
        assert isinstance(self.spec.condition, LabelCondition)
        labels = torch.tensor([i % self.spec.condition.num_classes for i in batch])
        return label_rows(labels, self.spec, self.rows)


@dataclass(frozen=True)
class TextCalibration:
    """Every text in turn."""

    texts: TextSamples
    rows: int

    def __call__(self, batch: Sequence[int]) -> TextRows:
        texts = self.texts
        chosen = torch.tensor([i % len(texts.embeds) for i in batch])
        embeds, mask = texts.embeds[chosen], texts.mask[chosen]
        if self.rows == 2:
            embeds = torch.cat([embeds, texts.negative_embeds.expand(len(batch), -1, -1)])
            mask = torch.cat([mask, texts.negative_mask.expand(len(batch), -1)])
        return TextRows(embeds, mask)


def random_texts(condition: TextCondition, count: int, seed: int) -> TextSamples:
    """Normal embeddings, for models whose weights are random, too."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count + 1, condition.max_tokens, condition.embed_width)
    embeds, mask = torch.randn(shape, generator=generator), torch.ones(shape[:2], dtype=torch.int64)
    return TextSamples(embeds[:-1], mask[:-1], embeds[-1:], mask[-1:])


def read_texts(path: Path, condition: TextCondition) -> TextSamples:
    """Embeddings from a safetensors file with the names of diffusers' encode_prompt. Raises UsageError."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UsageError(f"--profile-embeds {path}: not a safetensors file ({error})") from None
    tail = (condition.max_tokens, condition.embed_width)
    found = []
    for name in ("prompt", "negative_prompt"):
        embeds, mask = tensors.get(f"{name}_embeds"), tensors.get(f"{name}_attention_mask")
        if embeds is None or mask is None:
            raise UsageError(f"--profile-embeds {path}: lacks {name}_embeds or {name}_attention_mask")
        if embeds.ndim != 3 or tuple(embeds.shape[1:]) != tail or mask.shape != embeds.shape[:2] or not len(embeds):
            given = f"{name}_embeds {list(embeds.shape)} and its mask {list(mask.shape)}"
            raise UsageError(f"--profile-embeds {path}: {given}; the model takes [n, {tail[0]}, {tail[1]}]")
        found += [embeds.float(), mask.long()]
    return TextSamples(found[0], found[1], found[2][:1], found[3][:1])


def read_prompts(path: Path) -> list[str]:
    """One prompt a line; empty lines are skipped. Raises UsageError."""
    try:
        prompts = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--prompts {path}: cannot be read ({error})") from None
    if not prompts:
        raise UsageError(f"--prompts {path}: has no prompts; write one a line")
    return prompts


DEFAULT_PROMPTS: Sequence[str] = (
    "a lighthouse on a cliff at dawn, soft light", "portrait of an old fisherman, detailed skin, studio lighting",
    "a bowl of ramen on a wooden table, top view", "a fox running through deep snow",
    "an astronaut reading a newspaper in a cafe", "a watercolour of a mountain village in spring",
    "a red vintage car parked in front of a blue house", "macro photograph of a dragonfly on a leaf",
    "isometric illustration of a tiny bakery", "a crowded night market in the rain, neon signs",
    "a marble statue of a dancer in a museum hall", "a golden retriever wearing round glasses",
    "an oil painting of a stormy sea with a sailing ship", "a glass of lemonade with mint and ice",
    "a futuristic train station with plants everywhere", "two children building a sandcastle at sunset",
    "a steampunk owl made of brass gears", "a quiet library with tall windows and dust in the light",
    "a field of sunflowers under a dark thunder cloud", "a cat sleeping on a stack of old books",
    "a pencil sketch of a gothic cathedral", "a bouquet of peonies in a ceramic vase",
    "an aerial view of a winding river through a forest", "a knight in silver armour on a white horse",
    "a slice of chocolate cake with raspberries", "a desert road with a single tree and long shadows",
    "a robot watering flowers on a balcony", "a street musician playing the violin in autumn",
    "a low poly landscape with hot air balloons", "a penguin in a business suit giving a speech",
    "the northern lights above a frozen lake", "a colourful parrot on a branch, jungle background",
)  # fmt: skip
"""For text models whose folder has no prompts.txt of its own."""
