"""What a model's pictures can be judged by, beside their distance from the unaccelerated ones.

A judge looks at pictures alone: it knows real ones, and what each seed was asked to draw. Models that come with none
have RMSE and PSNR.
"""

from __future__ import annotations

import logging
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from .conditions import DRAWS_SCENES, held_out_scenes
from .scenes import Scene, draw_scenes, render, silhouette_overlaps

log = logging.getLogger(__name__)
_DIGITS = "digits"
_SCENES_FEATURES = 16  # as for digits: the held-out scenes determine a 16 x 16 covariance well
_TRAINING_SCENES, _TRAINING_SEED = 1000, 1
_SCENES_LATENTS = ((4, 16, 16), (64, 16))  # of 64 x 64 pixels: as they are, and packed as FLUX has them


class Judge(Protocol):
    """Judges pictures [n, C, H, W] in 0..1."""

    def features(self, images: NDArray[np.float32]) -> NDArray[np.float64]:
        """What Frechet distances are measured in: [n, d]."""

    def real_features(self) -> NDArray[np.float64]:
        """The same of real pictures that no training saw: [m, d]."""

    def verdicts(self, images: NDArray[np.float32], seeds: range) -> NDArray[np.bool_]:
        """Whether each picture shows what its seed was asked for: [n]."""

    def overlaps(self, images: NDArray[np.float32], seeds: range) -> NDArray[np.float64] | None:
        """How much of what each shows is where a ControlNet was told to, 0..1: [n]; None where nothing told."""


def find_judge(name: str, latent_shape: tuple[int, ...], *, is_steered: bool = False) -> Judge | None:
    """The judge of a model by its name and size, if it has one. is_steered: whether ControlNets get the silhouettes of
    what the prompts say."""
    if name in DRAWS_SCENES and latent_shape in _SCENES_LATENTS:
        return ScenesJudge(is_steered)
    if name == _DIGITS and latent_shape == (1, 8, 8):
        try:
            return DigitsModelJudge()
        except ModuleNotFoundError:
            log.warning("eval: accuracy and Frechet distance of digits need scikit-learn; "
                        "pip install 'soda-export[metrics]'")  # fmt: skip
    return None


class DigitsModelJudge:
    """Classifier and PCA features of eval/digits.py; seed s was asked for digit s mod 10."""

    def __init__(self) -> None:
        from .digits import DigitsJudge

        self._judge = DigitsJudge()

    def features(self, images: NDArray[np.float32]) -> NDArray[np.float64]:
        """[n, 1, 8, 8] -> [n, 16]."""
        return self._judge.features(2 * images - 1)

    def real_features(self) -> NDArray[np.float64]:
        """Of the held-out digits: [360, 16]."""
        return self._judge.held_out_features()

    def verdicts(self, images: NDArray[np.float32], seeds: range) -> NDArray[np.bool_]:
        """Whether each is recognised as its digit: [n]."""
        return self._judge.recognised(2 * images - 1, np.array(seeds) % 10)

    def overlaps(self, images: NDArray[np.float32], seeds: range) -> None:
        """Nothing tells where a digit is to be."""


class ScenesJudge:
    """The scene checker: whether a picture satisfies its caption, and its last features, reduced by a PCA fitted on
    rendered scenes with training captions."""

    def __init__(self, is_steered: bool = False) -> None:
        from safetensors.torch import load_file

        from .scene_checker import CHECKER_FILE, CheckerNetwork, SceneChecker

        self._network = CheckerNetwork().eval()
        self._network.load_state_dict(load_file(CHECKER_FILE))
        self._checker, self._is_steered = SceneChecker(self._network), is_steered

    def features(self, images: NDArray[np.float32]) -> NDArray[np.float64]:
        """[n, 3, 64, 64] -> [n, 16]."""
        centre, axes = self._pca
        reduced: NDArray[np.float64] = (self._last_features(images) - centre) @ axes
        return reduced

    def real_features(self) -> NDArray[np.float64]:
        """Of the held-out scenes, as they are rendered: [512, 16]."""
        return self.features(np.stack([render(scene) for scene in held_out_scenes()]))

    def verdicts(self, images: NDArray[np.float32], seeds: range) -> NDArray[np.bool_]:
        """Whether each satisfies its caption: [n]."""
        return np.array(self._checker.satisfied(images, _scenes_of(seeds)))

    def overlaps(self, images: NDArray[np.float32], seeds: range) -> NDArray[np.float64] | None:
        """Of drawn and given silhouettes, intersection over union: [n]."""
        return silhouette_overlaps(images, _scenes_of(seeds)) if self._is_steered else None

    @torch.no_grad()
    def _last_features(self, images: NDArray[np.float32]) -> NDArray[np.float64]:
        """What the checker's last layer reads: [n, 128]."""
        seen = self._network.features(torch.from_numpy(np.clip(images, 0.0, 1.0))).flatten(1)
        return self._network.read[:-1](seen).double().numpy()  # type: ignore[no-any-return]

    @cached_property
    def _pca(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean [128] and principal axes [128, 16]."""
        scenes = draw_scenes(_TRAINING_SCENES, _TRAINING_SEED, held_out=False)
        seen = self._last_features(np.stack([render(scene) for scene in scenes]))
        centre = seen.mean(axis=0)
        axes = np.linalg.svd(seen - centre, full_matrices=False)[2][:_SCENES_FEATURES]
        return centre, axes.T


def _scenes_of(seeds: range) -> list[Scene]:
    scenes = held_out_scenes()
    return [scenes[seed % len(scenes)] for seed in seeds]
