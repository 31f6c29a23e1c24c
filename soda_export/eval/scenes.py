"""Scenes of one or two coloured shapes: their captions, and their pixels.

The world of the built-in models `shapes`, `scenes` and `shapes-flux`. Two objects of a scene have different colours, so
"the red one" is clear. Renderer and grammar are all there is: any number of scenes can be made, and some captions are
kept out of training.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IMAGE_SIZE = 64
BACKGROUND = (0.93, 0.93, 0.93)
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.16, 0.16), "green": (0.15, 0.62, 0.25), "blue": (0.16, 0.33, 0.86),
    "yellow": (0.96, 0.80, 0.13), "purple": (0.58, 0.22, 0.72), "black": (0.10, 0.10, 0.10),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle")
SIZES: dict[str, tuple[float, float]] = {"small": (8.0, 9.0), "large": (12.5, 13.5)}
"""Size word -> range of the radius in pixels."""
RELATIONS: dict[str, tuple[int, int]] = {
    "above": (1, -1), "below": (1, 1), "to the left of": (0, -1), "to the right of": (0, 1),
}  # fmt: skip
"""Relation -> axis (0: x, 1: y) and the sign of the first object's place minus the second's."""
_HELD_OUT_SHARE = 0.1
_SEEN = 0.15  # difference of a channel from the background


@dataclass(frozen=True)
class Thing:
    """One object: what the caption may say of it. x, y: centre in pixels. said_size: the caption names its size."""

    colour: str
    shape: str
    size: str
    said_size: bool
    x: float
    y: float
    radius: float

    @property
    def words(self) -> str:
        """`a small red circle`."""
        return f"a {self.size} {self.colour} {self.shape}" if self.said_size else f"a {self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """One or two objects; relation is "" for one."""

    things: tuple[Thing, ...]
    relation: str

    @property
    def caption(self) -> str:
        """`a small red circle above a blue square`."""
        return f" {self.relation} ".join(thing.words for thing in self.things)


def is_held_out(caption: str) -> bool:
    """Whether a caption is kept out of training: the same tenth of all captions everywhere."""
    return zlib.crc32(caption.encode()) % 1000 < 1000 * _HELD_OUT_SHARE


def draw_scene(random: np.random.Generator) -> Scene:
    """A random scene; every fifth has one object."""
    if random.random() < 0.2:
        x, y = random.uniform(27, 37, size=2)
        return Scene((_draw_thing(random, str(random.choice(list(COLOURS))), x, y),), "")
    relation = str(random.choice(list(RELATIONS)))
    axis, sign = RELATIONS[relation]
    colours = random.choice(list(COLOURS), size=2, replace=False)
    things = []
    for colour, side in zip(colours, (sign, -sign), strict=True):
        place = random.uniform(27, 37, size=2)
        place[axis] = random.uniform(15, 18) if side < 0 else random.uniform(46, 49)
        things.append(_draw_thing(random, str(colour), *place))
    return Scene(tuple(things), relation)


def draw_scenes(count: int, seed: int, *, held_out: bool) -> list[Scene]:
    """`count` random scenes whose captions are, or are not, kept out of training."""
    random = np.random.default_rng(seed)
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = draw_scene(random)
        if is_held_out(scene.caption) == held_out:
            scenes.append(scene)
    return scenes


def held_out_prompts(count: int, seed: int = 0) -> list[Scene]:
    """`count` scenes with different captions, none of them seen in training."""
    found: dict[str, Scene] = {}
    random = np.random.default_rng(seed)
    while len(found) < count:
        scene = draw_scene(random)
        if is_held_out(scene.caption):
            found.setdefault(scene.caption, scene)
    return list(found.values())


def _draw_thing(random: np.random.Generator, colour: str, x: float, y: float) -> Thing:
    size = str(random.choice(list(SIZES)))
    return Thing(
        colour, str(random.choice(SHAPES)), size, bool(random.random() < 0.6), float(x), float(y),
        float(random.uniform(*SIZES[size])),
    )  # fmt: skip


def render(scene: Scene) -> NDArray[np.float32]:
    """A scene's pixels [3, 64, 64] in 0..1, edges smoothed over one pixel."""
    y, x = np.mgrid[0:IMAGE_SIZE, 0:IMAGE_SIZE].astype(np.float32) + 0.5
    image = np.empty((3, IMAGE_SIZE, IMAGE_SIZE), np.float32)
    image[:] = np.array(BACKGROUND, np.float32)[:, None, None]
    for thing in scene.things:
        distance = _signed_distance(thing.shape, x - thing.x, y - thing.y, thing.radius)
        coverage = np.clip(0.5 - distance, 0.0, 1.0)
        image += coverage * (np.array(COLOURS[thing.colour], np.float32)[:, None, None] - image)
    return image


def silhouette(scene: Scene) -> NDArray[np.float32]:
    """The objects white on black, [3, 64, 64] of 0 and 1: what a ControlNet is given."""
    return np.broadcast_to(find_objects(render(scene)), (3, IMAGE_SIZE, IMAGE_SIZE)).astype(np.float32)


def silhouette_overlaps(images: NDArray[np.float32], scenes: Sequence[Scene]) -> NDArray[np.float64]:
    """Intersection over union of what pictures [n, 3, 64, 64] in 0..1 show and the silhouettes of scenes: [n]."""
    drawn, given = find_objects(images), np.stack([silhouette(scene)[0] > 0 for scene in scenes])
    overlaps: NDArray[np.float64] = (drawn & given).sum((1, 2)) / (drawn | given).sum((1, 2))
    return overlaps


def find_objects(images: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Pictures in 0..1 [..., 3, H, W] -> where they differ from the background, [..., H, W]."""
    background = np.array(BACKGROUND, np.float32)[:, None, None]
    seen: NDArray[np.bool_] = np.abs(images - background).max(-3) > _SEEN
    return seen


def _signed_distance(
    shape: str, x: NDArray[np.float32], y: NDArray[np.float32], radius: float
) -> NDArray[np.float32]:
    """Pixels to the outline, negative within. The shapes have about equal areas."""
    if shape == "circle":
        distance = np.hypot(x, y) - radius
    elif shape == "square":
        distance = np.maximum(np.abs(x), np.abs(y)) - 0.9 * radius
    else:  # triangle, point up
        y = y - 0.2 * radius
        distance = np.maximum(y, np.abs(x) * np.sqrt(3) / 2 - y / 2) - 0.66 * radius
    return distance.astype(np.float32)
