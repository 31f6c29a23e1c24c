"""Clips of one coloured shape that moves: their captions, their frames, and what can be read off drawn ones.

The world of the built-in model `clips`, made of that of scenes.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .scene_checker import SceneChecker, Sighting
from .scenes import COLOURS, IMAGE_SIZE, SHAPES, SIZES, Scene, Thing, is_held_out, render

CLIP_CHECKER_FILE = Path(__file__).parent / "clip_checker.safetensors"
FRAMES, FRAMES_PER_SECOND = 4, 4
DIRECTIONS: dict[str, tuple[int, int]] = {
    "to the left": (0, -1), "to the right": (0, 1), "up": (1, -1), "down": (1, 1),
}  # fmt: skip
"""Words -> axis (0: x, 1: y) and sign of the motion."""
SPEEDS: dict[str, tuple[float, float]] = {"slowly": (3.5, 4.5), "quickly": (8.0, 10.0)}
"""Word -> range of pixels a frame."""
_ROOM = 17.0  # pixels that an object's centre may be off the middle
_FASTER, _STILL = 6.2, 1.5  # pixels a frame: between the speeds, and below which nothing has moved


@dataclass(frozen=True)
class Clip:
    """One object that is at its place half way through. speed: pixels a frame; said_speed: the caption names it."""

    thing: Thing
    direction: str
    speed: float
    said_speed: bool

    @property
    def caption(self) -> str:
        """`a small red circle moving slowly to the left`."""
        speed = f" {speed_word(self.speed)}" if self.said_speed else ""
        return f"{self.thing.words} moving{speed} {self.direction}"

    @property
    def scenes(self) -> list[Scene]:
        """What each frame shows."""
        axis, sign = DIRECTIONS[self.direction]
        way = [sign * self.speed * (frame - (FRAMES - 1) / 2) for frame in range(FRAMES)]
        x, y = self.thing.x, self.thing.y
        places = [(x + w, y) if axis == 0 else (x, y + w) for w in way]
        return [Scene((replace(self.thing, x=x, y=y),), "") for x, y in places]


def speed_word(speed: float) -> str:
    """What a caption calls a speed in pixels a frame."""
    return "quickly" if speed >= _FASTER else "slowly"


@cache
def all_clips() -> tuple[Clip, ...]:
    """A clip for each of the 648 captions; places, radii, and whatever its caption does not say, are to be drawn."""
    sizes, speeds = [(False, "small"), *((True, s) for s in SIZES)], [(False, "slowly"), *((True, s) for s in SPEEDS)]
    return tuple(
        Clip(Thing(colour, shape, size, said_size, 0.0, 0.0, 0.0), direction, SPEEDS[speed][0], said_speed)
        for colour in COLOURS for shape in SHAPES for said_size, size in sizes
        for direction in DIRECTIONS for said_speed, speed in speeds
    )  # fmt: skip


def place_clip(clip: Clip, random: np.random.Generator) -> Clip:
    """Draw what the caption leaves open. The object's centre is 15 pixels or more from the edge all the time."""
    size = clip.thing.size if clip.thing.said_size else str(random.choice(list(SIZES)))
    speed = speed_word(clip.speed) if clip.said_speed else str(random.choice(list(SPEEDS)))
    pace, radius = float(random.uniform(*SPEEDS[speed])), float(random.uniform(*SIZES[size]))
    room = np.full(2, _ROOM)
    room[DIRECTIONS[clip.direction][0]] -= pace * (FRAMES - 1) / 2
    x, y = (float(place) for place in random.uniform(IMAGE_SIZE / 2 - room, IMAGE_SIZE / 2 + room))
    thing = replace(clip.thing, size=size, x=x, y=y, radius=radius)
    return replace(clip, thing=thing, speed=pace)


def draw_clips(count: int, seed: int, *, held_out: bool) -> list[Clip]:
    """`count` random clips whose captions are, or are not, kept out of training. Of sizes and of speeds, two in three
    are said."""
    random = np.random.default_rng(seed)
    clips = [clip for clip in all_clips() if is_held_out(clip.caption) == held_out]
    return [place_clip(clips[i], random) for i in random.integers(len(clips), size=count)]


def held_out_clips(count: int, seed: int = 0) -> list[Clip]:
    """`count` clips of the 61 captions that no training saw, each caption in turn."""
    random = np.random.default_rng(seed)
    clips = [clip for clip in all_clips() if is_held_out(clip.caption)]
    order = random.permutation(len(clips))
    return [place_clip(clips[order[i % len(clips)]], random) for i in range(count)]


def render_clip(clip: Clip) -> NDArray[np.float32]:
    """Its frames [FRAMES, 3, 64, 64] in 0..1."""
    return np.stack([render(scene) for scene in clip.scenes])


@dataclass(frozen=True)
class Verdict:
    """What of a caption a drawn clip keeps. object: colour, shape and said size, and nothing else, in every frame."""

    object: bool
    direction: bool
    speed: bool

    @property
    def all(self) -> bool:
        """Whether it keeps the whole caption."""
        return self.object and self.direction and self.speed


class ClipChecker:
    """A scene checker that has seen frames of clips, frame by frame, and where it sees the object move."""

    def __init__(self) -> None:
        self.frames = SceneChecker(CLIP_CHECKER_FILE)

    def verdicts(self, frames: NDArray[np.float32], clips: Sequence[Clip]) -> list[Verdict]:
        """frames: [n, FRAMES, 3, 64, 64] in 0..1."""
        seen = self.frames.read(frames.reshape(-1, *frames.shape[2:]))
        per_clip = [seen[i : i + FRAMES] for i in range(0, len(seen), FRAMES)]
        return [_judge(sights, clip) for sights, clip in zip(per_clip, clips, strict=True)]


def _judge(sights: list[dict[str, Sighting]], clip: Clip) -> Verdict:
    thing = clip.thing
    tracked = [sight.get(thing.colour) for sight in sights]
    shown = [
        set(sight) == {thing.colour} and own is not None and own.shape == thing.shape
        and (not thing.said_size or own.size == thing.size) for sight, own in zip(sights, tracked, strict=True)
    ]  # fmt: skip
    places = [(frame, own.x, own.y) for frame, own in enumerate(tracked) if own is not None]
    if len(places) < FRAMES // 2:
        return Verdict(all(shown), False, False)
    frame, x, y = np.array(places).T
    slopes = np.polyfit(frame, x, 1)[0], np.polyfit(frame, y, 1)[0]
    axis, sign = DIRECTIONS[clip.direction]
    along, across = sign * slopes[axis], abs(slopes[1 - axis])
    is_right = bool(along > _STILL and along > across)
    return Verdict(all(shown), is_right, not clip.said_speed or speed_word(along) == speed_word(clip.speed))
