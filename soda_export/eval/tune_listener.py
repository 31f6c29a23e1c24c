"""Read a mel spectrogram back: which instrument plays which pitches how fast.

Of all tunes that a caption can name, the one whose own spectrogram is nearest. Nothing is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from .notes import Tune, all_tunes, mel_spectrogram, play

_START_S = 0.03  # in the middle of when clips begin


def hear(mels: NDArray[np.float32]) -> list[Tune]:
    """Mel spectrograms [n, FRAMES, MELS] -> the tune that each is nearest to, however loud it is."""
    tunes, templates = _templates()
    given = _levelled(mels)
    distances = (templates**2).sum(1) - 2 * given @ templates.T  # [n, templates], but for what is the same for all
    return [tunes[k] for k in distances.argmin(1)]


def satisfied(mels: NDArray[np.float32], tunes: Sequence[Tune]) -> list[bool]:
    """Whether each spectrogram [n, FRAMES, MELS] is of what its tune's caption says."""
    return [heard.caption == tune.caption for heard, tune in zip(hear(mels), tunes, strict=True)]


def shares(mels: NDArray[np.float32], tunes: Sequence[Tune]) -> dict[str, float]:
    """Share of clips with the right tempo, instrument and pitches, each by itself."""
    pairs = list(zip(hear(mels), tunes, strict=True))
    return {
        name: float(np.mean([getattr(heard, name) == getattr(tune, name) for heard, tune in pairs]))
        for name in ("tempo", "instrument", "pitches")
    }


@cache
def _templates() -> tuple[list[Tune], NDArray[np.float32]]:
    """Every tune, and its levelled spectrogram [tunes, FRAMES * MELS]."""
    tunes = [replace(tune, start_s=_START_S) for tune in all_tunes()]
    return tunes, np.concatenate([_levelled(mel_spectrogram(play(tune)[None])) for tune in tunes])


def _levelled(mels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Spectrograms raised so that their loudest values agree, flattened: a factor of the sound is a term of its
    logarithm. What then lies far below is silence."""
    loudest = np.quantile(mels, 0.995, axis=(1, 2), keepdims=True)
    levelled: NDArray[np.float32] = np.maximum(mels - loudest, -1.2).reshape(len(mels), -1)
    return levelled
