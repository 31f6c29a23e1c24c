"""What captions of scenes say, and the words that they say it with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from language import Lesson, learn_language
from scene_data import CLASSES, read_captions, training_scenes
from torch import Tensor, nn

from soda_export.eval.scenes import Scene, draw_scenes

MAX_TOKENS = 24
WORDS = """
    a small large red green blue yellow purple black circle square triangle above below to the left right of
    and an on with picture
""".split()  # noqa: SIM905


def learn_scenes(
    name: str, encoder: nn.Module, width: int, iterations: int,
    read: Callable[[list[str]], tuple[Tensor, Tensor, Tensor]],
) -> dict[str, Any]:  # fmt: skip
    """Train `encoder` to say in a token what stands at each of five places.

    read: captions -> token ids, attention mask, and whether a token must tell the whole scene, all [n, 24].
    """

    def tell(ids: Tensor, mask: Tensor, tells: Tensor) -> tuple[Tensor, Tensor]:
        return encoder(ids, attention_mask=mask).last_hidden_state[tells], tells.nonzero()[:, 0]

    lesson, test = _lesson(training_scenes()), _lesson(draw_scenes(1000, 6, held_out=True))
    return learn_language(name, encoder, width, iterations, lesson, test, read, tell)


def _lesson(scenes: list[Scene]) -> Lesson:
    return Lesson([scene.caption for scene in scenes], read_captions(scenes), CLASSES)
