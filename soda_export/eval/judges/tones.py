"""The judge of `tones`."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .. import tune_listener
from ..notes import Tune, draw_tunes, mel_spectrogram, play
from ..worlds import asked_of, held_out_tunes
from .principal import PrincipalAxes

_TRAINING_TUNES, _TRAINING_SEED = 500, 1


class TonesJudge:
    """The listener: whether it hears what the caption says, and mel spectrograms reduced by a PCA fitted on rendered
    tunes with training captions."""

    def features(self, made: NDArray[np.float32]) -> NDArray[np.float64]:
        """[n, 1, 32, 64] in 0..1 -> [n, 16]."""
        return self._axes.reduced(made.reshape(len(made), -1).astype(np.float64))

    def real_features(self) -> NDArray[np.float64]:
        """Of the held-out tunes, as they are rendered: [237, 16]."""
        return self.features(_pictures(list(held_out_tunes())))

    def verdicts(self, made: NDArray[np.float32], seeds: range) -> NDArray[np.bool_]:
        """Whether each is heard as what its caption says: [n]."""
        return np.array(tune_listener.satisfied(2 * made[:, 0] - 1, asked_of(held_out_tunes(), seeds)))

    def overlaps(self, made: NDArray[np.float32], seeds: range) -> None:
        """Nothing tells where a tone is to be."""

    @cached_property
    def _axes(self) -> PrincipalAxes:
        tunes = draw_tunes(_TRAINING_TUNES, _TRAINING_SEED, held_out=False)
        return PrincipalAxes(_pictures(tunes).reshape(len(tunes), -1).astype(np.float64))


def _pictures(tunes: list[Tune]) -> NDArray[np.float32]:
    """Spectrograms as a decoder gives them: [n, 1, 32, 64] in 0..1."""
    mels = np.stack([mel_spectrogram(play(tune)) for tune in tunes])[:, None]
    return np.clip(mels / 2 + 0.5, 0.0, 1.0)
