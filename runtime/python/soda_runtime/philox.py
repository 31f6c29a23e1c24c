"""Counter-based Gaussian noise: (seed, stream, row, element) alone decide each float32.

Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011) followed by Box-Muller in
float64, rounded once to float32: libraries whose float64 functions differ in the last bits agree but for rare
roundings. BUNDLE.md has the specification and literal vectors for other languages.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .errors import RequestError

INITIAL_STREAM = 0  # the stream of the initial latents; the noise of step i is stream 1 + i

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


def philox4x32(counter: NDArray[np.uint32], key: tuple[int, int]) -> NDArray[np.uint32]:
    """Ten rounds of Philox4x32. counter [n, 4] -> random words [n, 4]."""
    c0, c1, c2, c3 = (counter[:, i].astype(np.uint64) for i in range(4))
    k0, k1 = key
    for _ in range(10):
        p0, p1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (p1 >> _SHIFT) ^ c1 ^ np.uint64(k0), p1 & _LOW,
            (p0 >> _SHIFT) ^ c3 ^ np.uint64(k1), p0 & _LOW,
        )
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


def normal(seed: int, stream: int, row: int, count: int) -> NDArray[np.float32]:
    """`count` standard normal float32 values of one row of a batch.

    seed: 0 .. 2**64-1. stream: INITIAL_STREAM or 1 + step. row: index of the sample in the request.
    """
    if not 0 <= seed < 2**64:
        raise RequestError(f"seed {seed} is outside 0 .. 2**64-1")
    seed, blocks = int(seed), -(-count // 4)
    counter = np.zeros((blocks, 4), np.uint32)
    counter[:, 0] = np.arange(blocks, dtype=np.uint32)
    counter[:, 1], counter[:, 2] = stream, row
    words = philox4x32(counter, (seed & 0xFFFFFFFF, seed >> 32)).astype(np.float64)
    radius = np.sqrt(-2.0 * np.log((words[:, 0::2] + 1.0) * 2.0**-32))  # words + 1: never log(0)
    angle = (2.0 * np.pi) * (words[:, 1::2] * 2.0**-32)
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=2)  # [blocks, 2 pairs, (cos, sin)]
    return pairs.reshape(-1)[:count].astype(np.float32)


def latent_noise(seed: int, stream: int, batch: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Noise of one stream for a whole batch: [batch, *shape]; row r depends on (seed, stream, r) alone."""
    count = int(np.prod(shape))
    return np.stack([normal(seed, stream, row, count) for row in range(batch)]).reshape(batch, *shape)
