"""Captions -> a text encoder that has read them before anything is drawn or played (docs/decisions/0019)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from training import optimise

_BATCH, _RATE = 256, 3e-3


@dataclass(frozen=True)
class Lesson:
    """What captions say: `said` int64 [n, places, kinds], below the number of `classes` of its kind."""

    captions: list[str]
    said: Tensor
    classes: tuple[int, ...]


def learn_language(
    name: str, encoder: nn.Module, width: int, iterations: int, lesson: Lesson, test: Lesson,
    read: Callable[[list[str]], tuple[Tensor, ...]], tell: Callable[..., Tensor],
) -> dict[str, Any]:  # fmt: skip
    """Train `encoder`: a linear reader, thrown away later, must find all that a caption says in one vector.

    read: captions -> tensors [n, ...]; tell: those of a batch -> the vectors [m, width] that must tell it all, and the
    row of the batch that each is of [m]. Returns the learning curve and the share of the test's vectors that do.
    """
    places = lesson.said.shape[1]
    reader = nn.Linear(width, places * sum(lesson.classes))

    def wrong(tokens: tuple[Tensor, ...], said: Tensor) -> tuple[Tensor, Tensor]:
        vectors, rows = tell(*tokens)
        answers = reader(vectors).unflatten(-1, (places, -1)).split(lesson.classes, dim=-1)
        said = said[rows]
        losses = [functional.cross_entropy(a.flatten(0, 1), said[..., k].flatten()) for k, a in enumerate(answers)]
        right = torch.stack([a.argmax(-1) == said[..., k] for k, a in enumerate(answers)]).all(0).all(-1)
        return torch.stack(losses).sum(), 1 - right.float().mean()

    prepared = read(lesson.captions)

    def losses() -> Iterator[Tensor]:
        while True:
            chosen = torch.randint(len(lesson.captions), (_BATCH,))
            yield wrong(tuple(part[chosen] for part in prepared), lesson.said[chosen])[0]

    learned = optimise(
        name, nn.ModuleDict({"encoder": encoder, "reader": reader}), losses(), iterations=iterations, rate=_RATE
    )
    with torch.no_grad():
        share = wrong(read(test.captions), test.said)[1].item()
    return {"tokens_of_held_out_captions_that_tell_it_all": 1 - share} | learned
