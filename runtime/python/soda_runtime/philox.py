"""Counter-based Gaussian noise: (seed, stream, row, element) alone decide each float32.

Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011) followed by Box-Muller in
float64, rounded once to float32: libraries whose float64 functions differ in the last bits agree but for rare
roundings. BUNDLE.md has the specification and literal vectors for other languages.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .errors import RequestError

INITIAL_STREAM = 0  # the stream of the initial latents; the noise of step i is stream 1 + i

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_BLOCKS_AT_ONCE = 1 << 13  # of four values: what stays in a processor's cache


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
    values: NDArray[np.float32] = _normals(seed, [(stream, row)], count)[0]
    return values


def latent_noise(seed: int, stream: int, batch: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Noise of one stream for a whole batch: [batch, *shape]; row r depends on (seed, stream, r) alone."""
    noise: NDArray[np.float32] = step_noise(seed, range(stream - 1, stream), range(batch), shape)[0]
    return noise


def step_noise(seed: int, steps: range, rows: range, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Noise of some steps for some rows of a batch: [steps, rows, *shape]."""
    places = [(1 + step, row) for step in steps for row in rows]
    return _normals(seed, places, int(np.prod(shape))).reshape(len(steps), len(rows), *shape)


def _normals(seed: int, rows: Sequence[tuple[int, int]], count: int) -> NDArray[np.float32]:
    """`count` values of each (stream, row): [rows, count], as many rows at once as are small together."""
    if not 0 <= seed < 2**64:
        raise RequestError(f"seed {seed} is outside 0 .. 2**64-1")
    seed, blocks = int(seed), -(-count // 4)
    values, places = np.empty((len(rows), count), np.float32), np.array(rows, np.uint32)
    at_once = max(1, _BLOCKS_AT_ONCE // max(1, blocks))
    for first in range(0, len(rows), at_once):
        some = places[first : first + at_once]
        counter = np.zeros((len(some), blocks, 4), np.uint32)
        counter[..., 0], counter[..., 1:3] = np.arange(blocks, dtype=np.uint32), some[:, None]
        words = philox4x32(counter.reshape(-1, 4), (seed & 0xFFFFFFFF, seed >> 32)).astype(np.float64)
        radius = np.sqrt(-2.0 * np.log((words[:, 0::2] + 1.0) * 2.0**-32))  # words + 1: never log(0)
        angle = (2.0 * np.pi) * (words[:, 1::2] * 2.0**-32)
        pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=2)  # [blocks, 2 pairs, (cos, sin)]
        values[first : first + at_once] = pairs.reshape(len(some), -1)[:, :count]
    return values
