"""Clips of notes: what a caption says can be heard in the rendered clip, and nothing else is heard there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from soda_export.eval import notes
from soda_export.eval.notes import Tune, draw_tunes, held_out_tunes, mel_spectrogram, play
from soda_export.eval.scenes import is_held_out
from soda_export.eval.tune_listener import hear, satisfied, shares


def _mels(tunes: list[Tune]) -> np.ndarray:
    return np.stack([mel_spectrogram(play(tune)) for tune in tunes])


def test_a_rendered_tune_is_heard_as_what_its_caption_says() -> None:
    tunes = draw_tunes(60, 7, held_out=True)
    mels = _mels(tunes)
    assert mels.shape == (60, notes.FRAMES, notes.MELS)
    assert np.mean(satisfied(mels, tunes)) > 0.98
    noisy = mels + 0.05 * np.random.default_rng(1).standard_normal(mels.shape).astype(np.float32)
    assert np.mean(satisfied(noisy, tunes)) > 0.95


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        ({"tempo": "fast"}, "tempo"),
        ({"instrument": "flute"}, "instrument"),
        ({"pitches": ("low d",)}, "pitches"),
        ({"pitches": ("low c", "low d")}, "pitches"),
    ],
)
def test_another_word_is_not_what_is_heard(change: dict, lost: str) -> None:
    tune = Tune("slow", "organ", ("low c",))
    mels = _mels([replace(tune, **change)])
    assert satisfied(mels, [tune]) == [False]
    assert {name: share for name, share in shares(mels, [tune]).items() if share < 1} == {lost: 0.0}
    assert hear(mels)[0].caption == replace(tune, **change).caption


def test_a_pitch_is_the_frequency_that_it_is_called() -> None:
    assert notes.PITCHES["low a"] == pytest.approx(440.0)
    assert notes.PITCHES["high c"] == pytest.approx(2 * notes.PITCHES["low c"])
    sound = play(Tune("slow", "flute", ("low a",)))
    assert np.abs(sound).max() == pytest.approx(0.5, rel=1e-5)
    spectrum = np.abs(np.fft.rfft(sound))
    assert np.fft.rfftfreq(notes.SAMPLES, 1 / notes.SAMPLE_RATE)[spectrum.argmax()] == pytest.approx(440.0, abs=1.0)


def test_a_mel_band_peaks_where_the_scale_puts_it() -> None:
    peaks = np.fft.rfftfreq(1024, 1 / notes.SAMPLE_RATE)[notes.mel_filters().argmax(1)]
    mels = 2595 * np.log10(1 + peaks / 700)
    expected = 2595 * np.log10(1 + notes.SAMPLE_RATE / 2 / 700) * np.arange(1, notes.MELS + 1) / (notes.MELS + 1)
    assert np.abs(mels - expected).max() < 12  # of 33 between bands: the spectrum's own bins are 7.8 Hz apart


def test_captions_kept_out_of_training_are_kept_out() -> None:
    heard, kept = draw_tunes(200, 5, held_out=False), held_out_tunes(200)
    assert not {tune.caption for tune in heard} & {tune.caption for tune in kept}
    assert len({tune.caption for tune in kept}) == 200
    assert all(is_held_out(tune.caption) for tune in kept)
