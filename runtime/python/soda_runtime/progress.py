"""What a request's callback is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .errors import RequestError


class Playing(Protocol):
    """The session that plays the request, as far as a callback asks it: its own methods of these names."""

    @property
    def next_step(self) -> int: ...
    def latents(self) -> NDArray[np.float32]: ...
    def preview(self) -> NDArray[np.float32]: ...
    def preview_result(self) -> NDArray[np.float32]: ...
    def cancel(self) -> None: ...


@dataclass(frozen=True)
class StepDone:
    """A step that has just been run, `index` of `num_steps`. What it gives costs nothing until it is asked for, and can
    be asked for while the callback runs."""

    session: Playing
    index: int
    num_steps: int

    def latents(self) -> NDArray[np.float32]:
        """The latents after this step, as noisy as they are: [B, *latent_shape]."""
        return self._session().latents()

    def preview(self) -> NDArray[np.float32]:
        """Session.preview of this step."""
        return self._session().preview()

    def preview_result(self) -> NDArray[np.float32]:
        """Session.preview_result of this step."""
        return self._session().preview_result()

    def cancel(self) -> None:
        """Session.cancel."""
        self._session().cancel()

    def _session(self) -> Playing:
        if self.session.next_step != self.index + 1:
            raise RequestError(f"step {self.index} is over; ask while on_step runs")
        return self.session
