"""Generated sound as .wav files."""

from __future__ import annotations

import wave
from typing import IO

import numpy as np
from numpy.typing import NDArray

_MOST = 32767  # of 16 bits, the same on both sides of 0


def save_sound(sound: NDArray[np.float32], sample_rate: int, file: IO[bytes]) -> None:
    """Write [channels, samples] in -1..1 with 16 bits; what is beyond is cut off."""
    numbers = np.round(np.clip(sound, -1.0, 1.0) * _MOST).astype("<i2")
    with wave.open(file, "wb") as out:
        out.setnchannels(len(sound))
        out.setsampwidth(2)
        out.setframerate(sample_rate)
        out.writeframes(np.ascontiguousarray(numbers.T).tobytes())
