"""What samples are conditioned on, as the model's ports take it: labels in turn, texts, numbers' defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..errors import UsageError
from ..models.spec import ModelSpec, Port

Rows = Mapping[str, Tensor]
"""By port: [R, *port's shape], the conditional rows first."""

_TEXT_KINDS = ("embedding", "mask")
_DIFFUSERS_NAMES = {
    "embeds": "prompt_embeds", "attention_mask": "prompt_attention_mask", "pooled_embeds": "pooled_prompt_embeds",
}  # fmt: skip
"""Port -> how diffusers' encode_prompt calls it; other ports are called what they are."""


@dataclass(frozen=True, eq=False)
class Conditions:
    """What samples take in turn, by port: [n, ...], n of its own for each port. negative: [1, ...], what guidance
    steers away from; a port without one takes the sample's own in those rows, too."""

    positive: Rows
    negative: Rows

    def rows(self, samples: Sequence[int], rows: int) -> dict[str, Tensor]:
        """Sample i takes entry i mod n of each port: [rows * B, ...], the conditional rows first."""
        made = {}
        for port, entries in self.positive.items():
            chosen = entries[[i % len(entries) for i in samples]]
            other = self.negative[port].expand_as(chosen) if port in self.negative else chosen
            made[port] = torch.cat([chosen, other]) if rows == 2 else chosen
        return made

    def __or__(self, other: Conditions) -> Conditions:
        """The ports of both; the other's where both have one."""
        return Conditions({**self.positive, **other.positive}, {**self.negative, **other.negative})


def text_ports(spec: ModelSpec) -> tuple[Port, ...]:
    """Ports that a text encoder, or a file of embeddings, gives."""
    return tuple(port for port in spec.ports if port.kind in _TEXT_KINDS)


def own_conditions(spec: ModelSpec, scalars: Mapping[str, float] | None = None) -> Conditions:
    """Every class in turn, and each number's default or what `scalars` has; texts come on top."""
    positive, negative = {}, {}
    for port in spec.ports:
        if port.kind == "label":
            positive[port.name] = torch.arange(port.num_classes)
            negative[port.name] = torch.tensor([port.null_class])
        elif port.kind == "scalar":
            number = (scalars or {}).get(port.name, port.default)
            positive[port.name] = torch.full((1, *port.shape), float(number))
        elif port.kind == "row":
            positive[port.name], negative[port.name] = torch.zeros(1), torch.ones(1)
    return Conditions(positive, negative)


def random_texts(spec: ModelSpec, count: int, seed: int) -> Conditions:
    """Normal embeddings, for models whose weights are random, too; every token is attended to."""
    generator = torch.Generator().manual_seed(seed)
    positive, negative = {}, {}
    for port in text_ports(spec):
        shape = (count + 1, *port.shape)
        mask = torch.ones(shape, dtype=torch.int64)
        values = mask if port.kind == "mask" else torch.randn(shape, generator=generator)
        positive[port.name], negative[port.name] = values[:-1], values[-1:]
    return Conditions(positive, negative)


def read_texts(path: Path, spec: ModelSpec, negative: bool = True) -> Conditions:
    """Texts from a safetensors file with the names of diffusers' encode_prompt. negative: whether guidance needs what
    it steers away from. Raises UsageError."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UsageError(f"--profile-embeds {path}: not a safetensors file ({error})") from None
    sides: list[dict[str, Tensor]] = [{}, {}]
    for side, prefix in zip(sides, ("", "negative_") if negative else ("",), strict=False):
        for port in text_ports(spec):
            name = prefix + _DIFFUSERS_NAMES.get(port.name, port.name)
            if name not in tensors:
                raise UsageError(f"--profile-embeds {path}: lacks {name}")
            found = tensors[name]
            first = next(iter(side.values()), found)
            if tuple(found.shape[1:]) != port.shape or not len(found) or len(found) != len(first):
                wanted = ", ".join(map(str, ("n", *port.shape)))
                raise UsageError(
                    f"--profile-embeds {path}: {name} {list(found.shape)}; the model takes [{wanted}], n as in the rest"
                )
            side[port.name] = found.long() if port.kind == "mask" else found.float()
    return Conditions(sides[0], {name: tensor[:1] for name, tensor in sides[1].items()})


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
    "a chess board in the middle of a game, shallow depth of field", "a wooden rowing boat in thick morning fog",
    "an old tram climbing a steep street", "a potter's hands shaping a bowl on a wheel",
    "a hummingbird in front of a red flower", "a cross section of an ant hill, scientific illustration",
    "a sleeping dragon on a pile of coins, fantasy painting", "a violin and sheet music on a piano",
    "a greenhouse full of orchids", "a woman in a yellow raincoat waiting at a bus stop",
    "a blacksmith striking glowing iron, sparks", "a bicycle leaning on a white wall",
    "a spiral staircase from above, black and white", "a plate of sushi, studio light",
    "a herd of elephants crossing a dusty plain", "a tiny house made of mushrooms",
    "a satellite over the night side of the earth", "an origami crane on a blue table",
    "a crowd at a concert with raised hands", "a snow globe with a village inside",
    "a mosaic of two peacocks", "a fishing harbour with colourful boats",
    "a scientist looking into a microscope", "a stack of pancakes with syrup and blueberries",
    "a wolf howling at the moon, woodcut", "a market stall with spices in sacks",
    "a child blowing soap bubbles in a park", "a cactus in a striped pot on a window sill",
    "a waterfall in a green canyon, long exposure", "a mechanical watch with its case open",
    "an empty swimming pool with autumn leaves", "a racing car in a tight curve, motion blur",
)  # fmt: skip
"""For text models whose folder has no prompts.txt of its own."""
