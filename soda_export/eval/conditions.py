"""What the sample of a seed is conditioned on: class seed mod classes, or prompt seed mod prompts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..build.pipeline import Workbench
from ..models.denoiser import TextRows
from ..models.identity import rows_per_sample
from ..models.spec import LabelCondition
from ..options import ProfileOptions
from ..profile.calibration import DEFAULT_PROMPTS, TextCalibration, TextSamples, random_texts
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
        self._bench, self._spec = bench, bench.loaded.denoiser.spec
        self._rows = rows_per_sample(bench.options.guidance)

    def __call__(self, seeds: range) -> Tensor | TextRows:
        """Labels [B], or the text of all rows."""
        if isinstance(self._spec.condition, LabelCondition):
            return torch.tensor([seed % self._spec.condition.num_classes for seed in seeds])
        return TextCalibration(self._texts, self._rows)(seeds)

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        """The prompts in turn; none for class labels or without a text encoder."""
        if isinstance(self._spec.condition, LabelCondition) or not self._bench.components.has_text_encoder:
            return ()
        return tuple(model_prompts(self._spec.name, self._bench.calibration_texts(ProfileOptions())))

    def prompts_of(self, seeds: range) -> tuple[str, ...]:
        """The prompt of each seed, or none at all."""
        return tuple(self.prompts[seed % len(self.prompts)] for seed in seeds) if self.prompts else ()

    @cached_property
    def _texts(self) -> TextSamples:
        assert not isinstance(self._spec.condition, LabelCondition)
        if not self.prompts:
            log.warning("eval: no text encoder at hand, so random embeddings are used")
            return random_texts(self._spec.condition, _RANDOM_TEXTS, _RANDOM_SEED)
        components = self._bench.components

        def make(folder: Path) -> None:
            save_file({name: t.contiguous() for name, t in vars(components.encode(list(self.prompts))).items()},
                      folder / "texts.safetensors")  # fmt: skip

        tokens = self._spec.condition.max_tokens
        inputs = {"prompts": self.prompts, "text_encoder": components.text_hashes, "tokens": tokens}
        return TextSamples(**load_file(self._bench.store.produce("texts", inputs, make) / "texts.safetensors"))
