"""Short clips of played notes: their captions, their sound, and their mel spectrograms.

The world of the built-in model `tones`. Everything is computed here: any number of clips can be made, and some captions
are kept out of training, as for scenes.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from .scenes import is_held_out

SAMPLE_RATE, HOP, FRAMES, MELS = 8000, 512, 32, 64
SAMPLES = FRAMES * HOP
_WINDOW = 1024
PITCHES = {
    f"{octave} {name}": 440.0 * 2 ** ((semitone + shift - 9) / 12)
    for octave, shift in (("low", 0), ("high", 12))
    for name, semitone in zip("cdefgab", (0, 2, 4, 5, 7, 9, 11), strict=True)
}
"""`low c` (C4) to `high b` (B5) -> Hz, equal temperament, A4 = 440 Hz."""
TEMPOS = {"slow": 2, "steady": 4, "fast": 8}
"""Word -> notes in a clip of SAMPLES."""
_PARTIALS: dict[str, tuple[tuple[float, float], ...]] = {
    "organ": ((1, 1.0), (2, 0.8), (3, 0.6), (4, 0.5)),
    "bell": ((1, 1.0), (2.76, 0.7), (5.4, 0.4)),
    "flute": ((1, 1.0), (2, 0.1)),
    "guitar": ((1, 1.0), (2, 0.5), (3, 0.33), (4, 0.25), (5, 0.2), (6, 0.17)),
}
"""Instrument -> (multiple of the pitch, amplitude) of each partial below half the sample rate."""
_DECAY_S = {"organ": np.inf, "bell": 0.35, "flute": np.inf, "guitar": 0.15}
_ATTACK_S = {"organ": 0.01, "bell": 0.003, "flute": 0.08, "guitar": 0.003}
_RELEASE_S = 0.03
INSTRUMENTS = tuple(_PARTIALS)
_QUIETEST = 1e-4  # amplitudes are raised to this before their logarithm is taken


@dataclass(frozen=True)
class Tune:
    """One pitch again and again, or two in turn. start_s: when the first note begins; loudness: peak of the sound."""

    tempo: str
    instrument: str
    pitches: tuple[str, ...]
    start_s: float = 0.0
    loudness: float = 0.5

    @property
    def caption(self) -> str:
        """`a fast bell playing a low c and a high g`."""
        return f"a {self.tempo} {self.instrument} playing " + " and ".join(f"a {pitch}" for pitch in self.pitches)


@cache
def all_tunes() -> tuple[Tune, ...]:
    """One tune for each of the 2,352 captions."""
    pairs = [(first, second) for first in PITCHES for second in PITCHES if first != second]
    heard = [*((pitch,) for pitch in PITCHES), *pairs]
    return tuple(Tune(t, i, pitches) for t in TEMPOS for i in INSTRUMENTS for pitches in heard)


def draw_tunes(count: int, seed: int, *, held_out: bool) -> list[Tune]:
    """`count` random tunes whose captions are, or are not, kept out of training; every fifth has one pitch."""
    random = np.random.default_rng(seed)
    tunes: list[Tune] = []
    while len(tunes) < count:
        pitches = random.choice(list(PITCHES), size=1 if random.random() < 0.2 else 2, replace=False)
        tune = Tune(
            str(random.choice(list(TEMPOS))), str(random.choice(INSTRUMENTS)), tuple(map(str, pitches)),
            float(random.uniform(0.0, 0.06)), float(random.uniform(0.3, 0.8)),
        )  # fmt: skip
        if is_held_out(tune.caption) == held_out:
            tunes.append(tune)
    return tunes


def held_out_tunes(count: int, seed: int = 0) -> list[Tune]:
    """`count` tunes with different captions, none of them heard in training."""
    tunes = [tune for tune in all_tunes() if is_held_out(tune.caption)]
    chosen = np.random.default_rng(seed).permutation(len(tunes))[:count]
    return [tunes[i] for i in chosen]


def play(tune: Tune) -> NDArray[np.float32]:
    """The sound of a tune: [SAMPLES] in -1..1."""
    sound = np.zeros(SAMPLES)
    count = TEMPOS[tune.tempo]
    length = SAMPLES // count
    for number in range(count):
        begin = number * length + round(tune.start_s * SAMPLE_RATE)
        note = _note(tune.instrument, PITCHES[tune.pitches[number % len(tune.pitches)]], length)
        sound[begin : begin + length] += note[: len(sound) - begin]
    levelled: NDArray[np.float32] = (tune.loudness * sound / np.abs(sound).max()).astype(np.float32)
    return levelled


@cache
def _note(instrument: str, pitch: float, length: int) -> NDArray[np.float64]:
    seconds = np.arange(length) / SAMPLE_RATE
    partials = [(pitch * k, amplitude) for k, amplitude in _PARTIALS[instrument] if pitch * k < 0.48 * SAMPLE_RATE]
    waves = sum(amplitude * np.sin(2 * np.pi * hertz * seconds) for hertz, amplitude in partials)
    left = length / SAMPLE_RATE - seconds
    envelope = np.minimum(seconds / _ATTACK_S[instrument], 1) * np.minimum(left / _RELEASE_S, 1)
    return np.asarray(waves * envelope * np.exp(-seconds / _DECAY_S[instrument]))


def mel_spectrogram(sound: NDArray[np.floating]) -> NDArray[np.float32]:
    """Sound [..., SAMPLES] -> logarithms of mel amplitudes, silence at -1 and the loudest at about 1:
    [..., FRAMES, MELS]."""
    edge = (_WINDOW - HOP) // 2
    padded = np.pad(sound, [(0, 0)] * (sound.ndim - 1) + [(edge, edge)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW, axis=-1)[..., ::HOP, :]
    amplitudes = np.abs(np.fft.rfft(windows * np.hanning(_WINDOW + 1)[:-1])) * (4 / _WINDOW)
    logs = np.log(np.maximum(amplitudes @ mel_filters().T, _QUIETEST)) / np.log(_QUIETEST)
    mels: NDArray[np.float32] = (1 - 2 * logs).astype(np.float32)
    return mels


@cache
def mel_filters() -> NDArray[np.float64]:
    """Triangles of equal width on the mel scale 2595 log10(1 + f/700), from 0 Hz to half the sample rate:
    [MELS, bins]."""
    top = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, top, MELS + 2) / 2595) - 1)
    hertz = np.fft.rfftfreq(_WINDOW, 1 / SAMPLE_RATE)
    rising = (hertz - corners[:-2, None]) / (corners[1:-1] - corners[:-2])[:, None]
    falling = (corners[2:, None] - hertz) / (corners[2:] - corners[1:-1])[:, None]
    return np.maximum(0, np.minimum(rising, falling))
