"""What the sample of a seed is conditioned on: class seed mod classes, or prompt seed mod prompts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from ..build.pipeline import Workbench
from ..eager.conditions import DEFAULT_PROMPTS, Conditions, own_conditions, random_texts, text_ports
from ..options import ProfileOptions
from .scenes import Scene, held_out_prompts

log = logging.getLogger(__name__)
SHAPES = "shapes"
_NUM_SCENES = 512  # of about 970 captions that training never saw
_RANDOM_TEXTS, _RANDOM_SEED = 32, 1  # a profile's have its seed, 0 unless told otherwise


@cache
def held_out_scenes() -> tuple[Scene, ...]:
    """What the shapes model is asked to draw: captions that training never saw."""
    return tuple(held_out_prompts(_NUM_SCENES))


def model_prompts(name: str, usual: Sequence[str] = DEFAULT_PROMPTS) -> Sequence[str]:
    """Prompts of a text model: held-out captions of the shapes model, else the usual ones, which may have been profiled
    with other noise."""
    return [scene.caption for scene in held_out_scenes()] if name == SHAPES else usual


class SeedConditions:
    """Conditions of a model's samples. Texts are encoded once and kept in the stage store."""

    def __init__(self, bench: Workbench) -> None:
        self._bench, self._spec = bench, bench.loaded.spec

    def __call__(self, seeds: range) -> dict[str, Tensor]:
        """By port, the conditional rows first."""
        return self._conditions.rows(seeds, self._bench.rows)

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        """The prompts in turn; none for class labels or without a text encoder."""
        if not text_ports(self._spec) or not self._bench.components.has_text_encoder:
            return ()
        return tuple(model_prompts(self._spec.name, self._bench.calibration_texts(ProfileOptions())))

    def prompts_of(self, seeds: range) -> tuple[str, ...]:
        """The prompt of each seed, or none at all."""
        return tuple(self.prompts[seed % len(self.prompts)] for seed in seeds) if self.prompts else ()

    @cached_property
    def _conditions(self) -> Conditions:
        own = own_conditions(self._spec)
        return own | self._texts if text_ports(self._spec) else own

    @property
    def _texts(self) -> Conditions:
        if not self.prompts:
            log.warning("eval: no text encoder at hand, so random embeddings are used")
            return random_texts(self._spec, _RANDOM_TEXTS, _RANDOM_SEED)
        components, signs = self._bench.components, ("", "negative_")

        def make(folder: Path) -> None:
            made = components.encode(list(self.prompts))
            sides = zip(signs, (made.positive, made.negative), strict=True)
            named = {sign + port: tensor.contiguous() for sign, side in sides for port, tensor in side.items()}
            save_file(named, folder / "texts.safetensors")

        ports = {port.name: port.shape for port in text_ports(self._spec)}
        inputs = {"prompts": self.prompts, "text_encoder": components.text_hashes, "ports": ports}
        tensors = load_file(self._bench.store.produce("texts", inputs, make) / "texts.safetensors")
        return Conditions(*({port: tensors[sign + port] for port in ports} for sign in signs))
