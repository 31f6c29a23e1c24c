"""Requests that wait: a bounded queue, from which samples leave that can be made together."""

from __future__ import annotations

import threading
import time
from collections import deque

from .api_error import ApiError
from .images_request import ImagesRequest
from .merge import Sample


class WaitingLine:
    """Filled by any thread, emptied by one. Requests are counted, not their samples: one is let in whole or not."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._samples: deque[Sample] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, asked: ImagesRequest, retry_seconds: int) -> list[Sample]:
        """Its samples, which now wait. Raises ApiError where the line is full."""
        with self._changed:
            if self._num_requests() >= self._most:
                raise ApiError(
                    429, f"{self._most} requests wait already; come again in {retry_seconds} s", "", "queue_full",
                    retry_seconds,
                )  # fmt: skip
            samples = [Sample(asked, index, time.monotonic()) for index in range(asked.n)]
            self._samples.extend(samples)
            self._changed.notify()
        return samples

    def take(self, most: int, wait_seconds: float) -> list[Sample]:
        """The sample that has waited longest, and up to most - 1 that can be made together with it, in their order.

        Blocks until there is one, and for `wait_seconds` after it came, or until there are `most`. None once closed.
        """
        with self._changed:
            while not self._closed:
                self._samples = deque(sample for sample in self._samples if sample.is_wanted)
                batch = self._together(most)
                rest = batch[0].arrived + wait_seconds - time.monotonic() if batch else None
                if batch and (len(batch) == most or (rest is not None and rest <= 0)):
                    taken = set(map(id, batch))
                    self._samples = deque(sample for sample in self._samples if id(sample) not in taken)
                    return batch
                self._changed.wait(rest)
            return []

    def close(self) -> list[Sample]:
        """Nobody waits any more; those that did."""
        with self._changed:
            self._closed, left = True, [sample for sample in self._samples if sample.is_wanted]
            self._samples.clear()
            self._changed.notify_all()
        return left

    @property
    def num_requests(self) -> int:
        """How many wait, their clients still there."""
        with self._changed:
            return self._num_requests()

    @property
    def num_samples(self) -> int:
        """Pictures that they wait for."""
        with self._changed:
            return sum(sample.is_wanted for sample in self._samples)

    def _num_requests(self) -> int:
        return len({id(sample.asked) for sample in self._samples if sample.is_wanted})

    def _together(self, most: int) -> list[Sample]:
        first = self._samples[0] if self._samples else None
        if first is None:
            return []
        alike = (sample for sample in self._samples if sample.asked.together == first.asked.together)
        return [sample for sample, _ in zip(alike, range(most), strict=False)]
