"""The judge of `clips`."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..clips import FRAMES, ClipChecker, draw_clips, render_clip
from ..worlds import asked_of, held_out_clips
from .principal import PrincipalAxes

_TRAINING_CLIPS, _TRAINING_SEED = 250, 1


class ClipsJudge:
    """The checker of frames and motion: whether a clip keeps its caption, and its features of the first and the last
    frame, reduced by a PCA fitted on rendered clips with training captions."""

    def __init__(self) -> None:
        self._checker = ClipChecker()

    def features(self, made: NDArray[np.float32]) -> NDArray[np.float64]:
        """[n, FRAMES, 3, 64, 64] -> [n, 16]."""
        return self._axes.reduced(self._ends(made))

    def real_features(self) -> NDArray[np.float64]:
        """Of the held-out clips, as they are rendered: [256, 16]."""
        return self.features(np.stack([render_clip(clip) for clip in held_out_clips()]))

    def verdicts(self, made: NDArray[np.float32], seeds: range) -> NDArray[np.bool_]:
        """Whether each keeps its caption: object, direction and speed: [n]."""
        asked = asked_of(held_out_clips(), seeds)
        return np.array([verdict.all for verdict in self._checker.verdicts(made, asked)])

    def overlaps(self, made: NDArray[np.float32], seeds: range) -> None:
        """Nothing tells where a thing is to be."""

    def _ends(self, made: NDArray[np.float32]) -> NDArray[np.float64]:
        ends = [self._checker.frames.last_features(made[:, frame]) for frame in (0, FRAMES - 1)]
        return np.concatenate(ends, axis=1)

    @cached_property
    def _axes(self) -> PrincipalAxes:
        clips = draw_clips(_TRAINING_CLIPS, _TRAINING_SEED, held_out=False)
        return PrincipalAxes(self._ends(np.stack([render_clip(clip) for clip in clips])))
