"""Captions -> a text encoder that has read them before any picture is seen (docs/decisions/0019)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from scene_data import CLASSES, PLACES, read_captions, training_scenes
from torch import Tensor, nn
from torch.nn import functional
from training import optimise

from soda_export.eval.scenes import Scene, draw_scenes

MAX_TOKENS = 24
WORDS = """
    a small large red green blue yellow purple black circle square triangle above below to the left right of
    and an on with picture
""".split()  # noqa: SIM905
_BATCH, _RATE = 256, 3e-3


def learn_language(
    name: str, encoder: nn.Module, width: int, iterations: int,
    read: Callable[[list[str]], tuple[Tensor, Tensor, Tensor]],
) -> dict[str, Any]:  # fmt: skip
    """Train `encoder`: a linear reader, thrown away later, must find in a token what stands at each of five places.

    read: captions -> token ids, attention mask, and whether a token must tell the whole scene, all [n, 24].
    """
    reader = nn.Linear(width, len(PLACES) * sum(CLASSES))

    def prepare(scenes: list[Scene]) -> tuple[Tensor, ...]:
        return *read([scene.caption for scene in scenes]), read_captions(scenes)

    def wrong(ids: Tensor, mask: Tensor, tells: Tensor, said: Tensor) -> tuple[Tensor, Tensor]:
        words = encoder(ids, attention_mask=mask).last_hidden_state
        answers = reader(words)[tells].unflatten(-1, (len(PLACES), -1)).split(CLASSES, dim=-1)
        said = said[:, None].expand(-1, ids.shape[1], -1, -1)[tells]
        losses = [functional.cross_entropy(a.flatten(0, 1), said[..., k].flatten()) for k, a in enumerate(answers)]
        right = torch.stack([a.argmax(-1) == said[..., k] for k, a in enumerate(answers)]).all(0).all(-1)
        return torch.stack(losses).sum(), 1 - right.float().mean()

    prepared = prepare(training_scenes())

    def losses() -> Iterator[Tensor]:
        while True:
            chosen = torch.randint(len(prepared[0]), (_BATCH,))
            yield wrong(*(part[chosen] for part in prepared))[0]

    learned = optimise(
        name, nn.ModuleDict({"encoder": encoder, "reader": reader}), losses(), iterations=iterations, rate=_RATE
    )
    with torch.no_grad():
        share = wrong(*prepare(draw_scenes(1000, 6, held_out=True)))[1].item()
    return {"tokens_of_held_out_captions_that_tell_the_scene": 1 - share} | learned
