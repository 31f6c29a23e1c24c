"""Pictures of samples that are made together, and the thread that makes those of waiting requests."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle
from ..errors import RequestError, SodaError
from .api_error import FAULT, ApiError
from .merge import Pixels, Sample, merge_samples, noise_of
from .waiting import WaitingLine

log = logging.getLogger(__name__)
Generated = Callable[[int, float], None]


class BatchPlayer:
    """Plays one batch at a time with a session of its own: an engine library uses the whole machine for one.

    generated(pictures, seconds) is called after each.
    """

    def __init__(self, bundle: Bundle, generated: Generated = lambda pictures, seconds: None) -> None:
        self._session, self._bundle, self._generated = bundle.session(), bundle, generated
        self._gives_up = False

    def give_up(self) -> None:
        """Leave the batch in progress after its step. From any thread."""
        self._gives_up = True

    def close(self) -> None:
        """Free the session's buffers."""
        self._session.close()

    def play(self, samples: Sequence[Sample]) -> list[Pixels] | None:
        """Their pictures; None where in the meantime nobody wants any. Raises SodaError."""
        session, began, together = self._session, time.monotonic(), samples[0].asked.together
        manifest = self._bundle.at(together.size).manifest
        if together.loras != self._bundle.lora_strengths:
            session.set_lora_strengths(together.loras)
        session.begin(replace(merge_samples(samples), noise=noise_of(samples, manifest)))
        if session.playback.loop is not None:
            session.run_steps()  # as one, which the host does not follow step by step
        else:
            for step in range(session.next_step, manifest.sampler.steps):
                if self._gives_up or not any(sample.is_wanted for sample in samples):
                    session.reset()
                    return None
                session.step(step)
        pictures = to_pixels(session.images())
        self._generated(len(samples), time.monotonic() - began)
        return pictures

    def answer(self, samples: Sequence[Sample]) -> None:
        """Put into each sample its picture, or the ApiError that it ends with."""
        try:
            pictures = self.play(samples)
        except SodaError as error:
            if len(samples) > 1:  # whose fault it is shows when each is made alone
                for sample in samples:
                    self.answer([sample])
                return
            fail(samples, ApiError(400 if isinstance(error, RequestError) else 500, str(error)))
        except Exception:
            log.exception("serve: a fault of this server")
            fail(samples, ApiError(500, FAULT))
        else:
            if pictures is None:
                fail(samples, stopped())
                return
            for sample, picture in zip(samples, pictures, strict=True):
                if sample.picture.set_running_or_notify_cancel():  # until here its client may leave
                    sample.picture.set_result(picture)


class Player:
    """A thread that empties a line of waiting requests."""

    def __init__(self, batches: BatchPlayer, line: WaitingLine, most: int, wait_seconds: float) -> None:
        self._batches, self._line, self._most, self._wait_seconds = batches, line, most, wait_seconds
        self._thread = threading.Thread(target=self._play_on, name="soda-player", daemon=True)

    @property
    def is_alive(self) -> bool:
        """Whether it has begun and not ended."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Once the line is closed: leave the batch in progress after its step."""
        self._batches.give_up()
        if self.is_alive:
            self._thread.join()
        self._batches.close()

    def _play_on(self) -> None:
        while samples := self._line.take(self._most, self._wait_seconds):
            self._batches.answer(samples)


def to_pixels(images: NDArray[np.float32]) -> list[Pixels]:
    """[B, H, W, channels] in 0..1 -> of each [H, W, channels] in 0..255."""
    return list(np.clip(np.round(images * 255.0), 0, 255).astype(np.uint8))


def stopped() -> ApiError:
    """What a request is told that comes, or still waits, when the server ends."""
    return ApiError(503, "this server is stopping; ask another one", "", "stopping", 1)


def fail(samples: Sequence[Sample], error: ApiError) -> None:
    """Those whose clients still wait."""
    for sample in samples:
        if sample.picture.set_running_or_notify_cancel():
            sample.picture.set_exception(error)
