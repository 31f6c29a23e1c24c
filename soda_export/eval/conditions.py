"""What the sample of a seed is conditioned on: class seed mod classes, or prompt and hint seed mod theirs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..eager.conditions import DEFAULT_PROMPTS, Conditions, Rows, own_conditions, random_texts, text_ports
from ..eager.hints import HintPort, hint_ports, noise_hints, picture_ports, read_hints
from ..options import ProfileOptions
from ..workbench.pipeline import Workbench
from .scenes import IMAGE_SIZE, silhouette
from .worlds import DRAWS_SCENES, held_out_captions, held_out_scenes

log = logging.getLogger(__name__)
_RANDOM_TEXTS, _RANDOM_SEED = 32, 1  # a profile's have its seed, 0 unless told otherwise


def model_prompts(name: str, usual: Sequence[str] = DEFAULT_PROMPTS) -> Sequence[str]:
    """Prompts of a text model: captions that its training never saw where they are known, else the usual ones, which
    may have been profiled with other noise."""
    return held_out_captions(name) or usual


def held_out_hints(name: str, ports: Sequence[HintPort], folder: Path | None = None) -> Rows:
    """What a model's ControlNets are given, [n, C, H, W] by port: the folder's pictures, else the silhouettes of what
    its prompts say, else noise. Models for inpainting draw in squares."""
    made, pictures = noise_hints(ports, _RANDOM_TEXTS, _RANDOM_SEED), picture_ports(ports)
    if folder is not None:
        return {**made, **read_hints(folder, pictures)}
    if pictures and name in DRAWS_SCENES and all(port.shape == (3, IMAGE_SIZE, IMAGE_SIZE) for port in pictures):
        scenes = torch.from_numpy(np.stack([silhouette(scene) for scene in held_out_scenes()]))
        return {**made, **{port.name: scenes for port in pictures}}
    if pictures:
        log.warning("eval: hints are pictures of noise; --hints gives real ones")
    return made


class SeedConditions:
    """Conditions of a model's samples. Texts are encoded once and kept in the stage store.

    hints: folder of pictures for ControlNets, in place of the model's own.
    """

    def __init__(self, bench: Workbench, hints: Path | None = None) -> None:
        self._bench, self._spec, self._hints = bench, bench.loaded.spec, hints

    def __call__(self, seeds: range) -> dict[str, Tensor]:
        """By port, the conditional rows first."""
        return self._conditions.rows(seeds, self._bench.rows)

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        """The prompts in turn; none for class labels or without a text encoder."""
        if not text_ports(self._spec) or not self._bench.components.has_text_encoder:
            return ()
        return tuple(model_prompts(self._spec.name, self._bench.calibration(ProfileOptions()).prompts))

    @property
    def hints_key(self) -> dict[str, list[str]]:
        """What results depend on of the hints; nothing for a model without ControlNets."""
        return {port: [sha256(t.numpy().tobytes()).hexdigest()] for port, t in self._pictures.items()}

    def prompts_of(self, seeds: range) -> tuple[str, ...]:
        """The prompt of each seed, or none at all."""
        return tuple(self.prompts[seed % len(self.prompts)] for seed in seeds) if self.prompts else ()

    @cached_property
    def _conditions(self) -> Conditions:
        own = own_conditions(self._spec) | Conditions(self._pictures, {})
        return own | self._texts if text_ports(self._spec) else own

    @cached_property
    def _pictures(self) -> Rows:
        return held_out_hints(self._spec.name, hint_ports(self._spec), self._hints)

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
