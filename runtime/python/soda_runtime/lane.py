"""A playback and the samples of a request that it plays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .adaptive import AdaptivePlayback
from .judge import Judged
from .playback import Playback


@dataclass(frozen=True)
class Lane:
    """Samples first .. first + playback.batch - 1 of the request's `size`: all of them, or one that decides alone."""

    playback: Playback
    first: int
    size: int

    def of_samples(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """[size, ...] -> [batch, ...]."""
        return values[self.first : self.first + self.playback.batch]

    def write(self, state: NDArray[np.float32], judged: Judged, decisions: NDArray[np.int64] | None) -> None:
        """Put what the programs read in its place. state: [n, size, *latent_shape]. decisions: [S, size] to take."""
        playback, here = self.playback, slice(self.first, self.first + self.playback.batch)
        playback.initial_state.write(np.ascontiguousarray(state[:, here]))
        for name, values in judged.ports.items():
            rows = values.reshape(-1, self.size, *values.shape[1:])[:, here]  # [rows of a sample, batch, ...]
            playback.request[name].write(np.ascontiguousarray(rows))
        playback.guidance.write(np.array([judged.guidance], np.float32))
        if isinstance(playback, AdaptivePlayback):
            playback.begin_decisions(None if decisions is None else decisions[:, self.first])

    def replace_latents(self, steps_done: int, latents: NDArray[np.float32]) -> None:
        """Put other latents [batch, *latent_shape] where the next step reads them."""
        memory = self.playback.state_after(steps_done)
        state = memory.read().view(np.float32).reshape(-1, *latents.shape)
        state[0] = latents
        memory.write(state)

    def latents(self, steps_done: int) -> NDArray[np.float32]:
        """The latents [batch, *latent_shape] after that many steps."""
        shape = self.playback.latent_shape
        state = self.playback.state_after(steps_done).read().view(np.float32)
        latents: NDArray[np.float32] = state.reshape(-1, self.playback.batch, *shape)[0]
        return latents
