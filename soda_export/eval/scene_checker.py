"""Read a picture of shapes back: which colours are there, as which shape, how large and where.

A small convolutional network trained on rendered scenes alone (scripts/train_shapes.py), so that it judges generated
pictures by what rendered ones look like.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .scenes import COLOURS, IMAGE_SIZE, RELATIONS, SHAPES, SIZES, Scene

CHECKER_FILE = Path(__file__).parent / "scene_checker.safetensors"
_FEATURES = 1 + len(SHAPES) + len(SIZES) + 2  # present, shape, size, x and y
_RELATION_PIXELS = 8.0  # centres must differ by this much along the relation's axis; rendered ones do by 28


@dataclass(frozen=True)
class Sighting:
    """An object as the checker sees it; x, y in pixels."""

    shape: str
    size: str
    x: float
    y: float


class CheckerNetwork(nn.Module):
    """Images [n, 3, 64, 64] in 0..1 -> [n, colours, features]: logits of presence, shape and size, centre in 0..1."""

    def __init__(self) -> None:
        super().__init__()
        widths, layers = (3, 24, 48, 64, 64), []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.SiLU()]
        self.features = nn.Sequential(*layers)  # [n, 64, 4, 4]
        self.read = nn.Sequential(nn.Linear(64 * 16, 128), nn.SiLU(), nn.Linear(128, len(COLOURS) * _FEATURES))

    def forward(self, images: Tensor) -> Tensor:
        answer: Tensor = self.read(self.features(images).flatten(1))
        return answer.reshape(-1, len(COLOURS), _FEATURES)

    def loss(self, images: Tensor, scenes: Sequence[Scene]) -> Tensor:
        """Cross entropies of what each scene holds plus the squared error of the centres."""
        answer = self(images)
        present = torch.zeros(answer.shape[:2])
        for i, scene in enumerate(scenes):
            for thing in scene.things:
                present[i, list(COLOURS).index(thing.colour)] = 1.0
        things = [(i, thing) for i, scene in enumerate(scenes) for thing in scene.things]
        seen = torch.stack([answer[i, list(COLOURS).index(thing.colour)] for i, thing in things])
        shape, size, place = _split(seen)
        shapes = torch.tensor([SHAPES.index(thing.shape) for _, thing in things])
        sizes = torch.tensor([list(SIZES).index(thing.size) for _, thing in things])
        places = torch.tensor([(thing.x, thing.y) for _, thing in things]) / IMAGE_SIZE
        return (
            nn.functional.binary_cross_entropy_with_logits(answer[..., 0], present)
            + nn.functional.cross_entropy(shape, shapes)
            + nn.functional.cross_entropy(size, sizes)
            + 10 * nn.functional.mse_loss(place, places)
        )


def _split(answer: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    shape, size, place = torch.split(answer[..., 1:], [len(SHAPES), len(SIZES), 2], dim=-1)
    return shape, size, place


class SceneChecker:
    """A trained network as a judge."""

    def __init__(self, file: Path = CHECKER_FILE) -> None:
        from safetensors.torch import load_file

        self._network = CheckerNetwork().eval()
        self._network.load_state_dict(load_file(file))

    @torch.no_grad()
    def read(self, images: NDArray[np.float32]) -> list[dict[str, Sighting]]:
        """Images [n, 3, 64, 64] in 0..1 -> for each, colour -> what has that colour."""
        answer = self._network(torch.from_numpy(np.clip(images, 0.0, 1.0)))
        shape, size, place = _split(answer)
        return [
            {
                colour: Sighting(
                    SHAPES[int(shape[i, c].argmax())], list(SIZES)[int(size[i, c].argmax())],
                    *(float(v) * IMAGE_SIZE for v in place[i, c]),
                )
                for c, colour in enumerate(COLOURS)
                if answer[i, c, 0] > 0
            }
            for i in range(len(images))
        ]  # fmt: skip

    @torch.no_grad()
    def last_features(self, images: NDArray[np.float32]) -> NDArray[np.float64]:
        """What the last layer reads of images [n, 3, 64, 64] in 0..1: [n, 128]."""
        seen = self._network.features(torch.from_numpy(np.clip(images, 0.0, 1.0))).flatten(1)
        return self._network.read[:-1](seen).double().numpy()  # type: ignore[no-any-return]

    def satisfied(self, images: NDArray[np.float32], scenes: Sequence[Scene]) -> list[bool]:
        """Whether each image [n, 3, 64, 64] shows what the scene's caption says, and nothing else."""
        return [_satisfies(seen, scene) for seen, scene in zip(self.read(images), scenes, strict=True)]


def _satisfies(seen: dict[str, Sighting], scene: Scene) -> bool:
    if set(seen) != {thing.colour for thing in scene.things}:
        return False
    for thing in scene.things:
        found = seen[thing.colour]
        if found.shape != thing.shape or (thing.said_size and found.size != thing.size):
            return False
    if not scene.relation:
        return True
    axis, sign = RELATIONS[scene.relation]
    first, second = (seen[thing.colour] for thing in scene.things)
    return sign * ((first.x, first.y)[axis] - (second.x, second.y)[axis]) >= _RELATION_PIXELS
