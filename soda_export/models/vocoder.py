"""A vocoder's configuration to what the length of its sounds follows from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

from ..errors import ModelError


@dataclass(frozen=True)
class Vocoder:
    """Makes sounds of `rate` samples per second of frames of `mels` numbers. upsample: factor and kernel of each of its
    transposed convolutions. All lengths are as MusicLDMPipeline computes them."""

    rate: int
    mels: int
    upsample: tuple[tuple[int, int], ...]

    @property
    def frame_seconds(self) -> float:
        """What a frame of the spectrogram lasts."""
        return prod(factor for factor, _ in self.upsample) / self.rate

    def frames(self, seconds: float, scale: int) -> int:
        """Frames that last so long, raised to a multiple of `scale`, those that the autoencoder makes of a latent."""
        return ceil(int(seconds / self.frame_seconds) / scale) * scale

    def samples(self, seconds: float, frames: int) -> int:
        """What the sound of so many frames is cut to; it may lack a part of the last frame."""
        made = frames
        for factor, kernel in self.upsample:
            made = (made - 1) * factor - 2 * ((kernel - factor) // 2) + kernel
        return min(int(seconds * self.rate), made)


def read_vocoder(config: Mapping[str, Any]) -> Vocoder:
    """Of a SpeechT5HifiGan's fields, as config.json has them. Raises ModelError."""
    known = {
        "sampling_rate": 16000, "model_in_dim": 80, "upsample_rates": [4] * 4, "upsample_kernel_sizes": [8] * 4,
    }  # fmt: skip
    rate, mels, factors, kernels = (config.get(key, default) for key, default in known.items())
    lists = {"upsample_rates": factors, "upsample_kernel_sizes": kernels}
    for key, numbers in lists.items():
        if not isinstance(numbers, list | tuple) or not numbers:
            raise ModelError(f"vocoder/config.json: {key}={numbers!r}: a list of whole numbers above 0 is needed")
    if not all(type(number) is int and number > 0 for number in (rate, mels, *factors, *kernels)):
        raise ModelError(f"vocoder/config.json: {', '.join(known)} must be whole numbers above 0")
    if len(factors) != len(kernels):
        counts = f"{len(factors)} upsample_rates and {len(kernels)} upsample_kernel_sizes"
        raise ModelError(f"vocoder/config.json: {counts}; there must be as many of both")
    return Vocoder(rate, mels, tuple(zip(factors, kernels, strict=True)))
