"""The judge of models that draw scenes."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..scene_checker import SceneChecker
from ..scenes import draw_scenes, render, silhouette_overlaps
from ..worlds import asked_of, held_out_scenes
from .principal import PrincipalAxes

_TRAINING_SCENES, _TRAINING_SEED = 1000, 1


class ScenesJudge:
    """The scene checker: whether a picture satisfies its caption, and its last features, reduced by a PCA fitted on
    rendered scenes with training captions."""

    def __init__(self, is_steered: bool = False) -> None:
        self._checker, self._is_steered = SceneChecker(), is_steered

    def features(self, made: NDArray[np.float32]) -> NDArray[np.float64]:
        """[n, 3, 64, 64] -> [n, 16]."""
        return self._axes.reduced(self._checker.last_features(made))

    def real_features(self) -> NDArray[np.float64]:
        """Of the held-out scenes, as they are rendered: [512, 16]."""
        return self.features(np.stack([render(scene) for scene in held_out_scenes()]))

    def verdicts(self, made: NDArray[np.float32], seeds: range) -> NDArray[np.bool_]:
        """Whether each satisfies its caption: [n]."""
        return np.array(self._checker.satisfied(made, asked_of(held_out_scenes(), seeds)))

    def overlaps(self, made: NDArray[np.float32], seeds: range) -> NDArray[np.float64] | None:
        """Of drawn and given silhouettes, intersection over union: [n]."""
        return silhouette_overlaps(made, asked_of(held_out_scenes(), seeds)) if self._is_steered else None

    @cached_property
    def _axes(self) -> PrincipalAxes:
        scenes = draw_scenes(_TRAINING_SCENES, _TRAINING_SEED, held_out=False)
        return PrincipalAxes(self._checker.last_features(np.stack([render(scene) for scene in scenes])))
