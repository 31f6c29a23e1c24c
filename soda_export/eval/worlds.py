"""What built-in models are asked for when they are judged: captions that no training saw, by the model's name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Protocol, TypeVar

from . import clips, notes, scenes

DRAWS_SCENES = frozenset({"scenes", "shapes", "shapes-flux"})
CLIPS, TONES = "clips", "tones"
Thing = TypeVar("Thing")


class Captioned(Protocol):
    """Anything that a caption can ask for."""

    @property
    def caption(self) -> str:
        """In words."""


@cache
def held_out_scenes() -> tuple[scenes.Scene, ...]:
    """512 of about 970 different captions."""
    return tuple(scenes.held_out_prompts(512))


@cache
def held_out_clips() -> tuple[clips.Clip, ...]:
    """256 clips of about 60 different captions."""
    return tuple(clips.held_out_clips(256))


@cache
def held_out_tunes() -> tuple[notes.Tune, ...]:
    """All 237 captions."""
    return tuple(notes.held_out_tunes(237))


_ASKED: Mapping[str, Callable[[], Sequence[Captioned]]] = {
    **dict.fromkeys(DRAWS_SCENES, held_out_scenes), CLIPS: held_out_clips, TONES: held_out_tunes,
}  # fmt: skip


def asked_of(things: Sequence[Thing], seeds: range) -> list[Thing]:
    """What each seed was asked for, in turn."""
    return [things[seed % len(things)] for seed in seeds]


def held_out_captions(name: str) -> list[str] | None:
    """What the model of that name is asked for, in turn; None where it is none of these."""
    asked = _ASKED.get(name)
    return None if asked is None else [thing.caption for thing in asked()]
