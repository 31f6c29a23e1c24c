"""A bundle that is being served: requests in, pictures out, whatever the transport."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from ..bundle import Bundle
from ..prompts import Truncation
from .images_request import ImagesRequest, parse_body, read_images_request
from .loras import ServedLora, find_loras
from .merge import Pixels, Sample, judge_asked
from .metrics import Metrics
from .options import ServeOptions, check_options
from .player import BatchPlayer, Player, fail, stopped
from .servable import judge_bundle, name_of
from .waiting import WaitingLine

log = logging.getLogger(__name__)


class Service:
    """Of one bundle in one process. Its requests come from one event loop."""

    def __init__(
        self, bundle: Bundle, options: ServeOptions, name: str = "", loras: Sequence[ServedLora] = ()
    ) -> None:
        """name: what the model is called, default its folder's. loras: that the bundle was opened with. Raises
        BundleError for what cannot be served, RequestError for options out of range."""
        check_options(options)
        self.bundle, self.options, self.metrics = bundle, options, Metrics()
        self.servable = judge_bundle(bundle, name, loras)
        self.began = int(time.time())
        self._line = WaitingLine(options.queue)
        self._batches = BatchPlayer(bundle, self._generated)
        self._player = Player(self._batches, self._line, options.batch, options.wait_ms / 1000)
        self._batch_seconds = 1.0  # what a batch takes, smoothed
        self._in_flight = 0
        self._stopping = False
        self.metrics.watch(lambda: self._line.num_requests, lambda: self._in_flight)

    @classmethod
    def open(cls, path: str, options: ServeOptions) -> Service:
        """Open a bundle, make one picture of each size, so that every engine is open, and begin to serve. Raises
        SodaError."""
        check_options(options)
        loras = find_loras(options)
        bundle = Bundle.open(
            path, backend=options.backend, device=options.device, threads=options.threads,
            weights=options.weights or "", lora=[(lora.path, lora.strength) for lora in loras],
        )  # fmt: skip
        service = cls(bundle, options, name_of(path), loras)
        service.start()
        return service

    def start(self) -> None:
        """Raises SodaError where the bundle cannot make a picture."""
        fields = {"labels": 0} if self.servable.classes else {"prompt": "a picture"} if self.servable.texts else {}
        began = time.perf_counter()
        for size in reversed(self.servable.size_names):  # the first one's buffers stay
            self._batches.play([Sample(read_images_request({**fields, "size": size}, self.servable), 0, 0.0)])
        log.info("serve: %s is open, first picture in %.1f s", self.bundle.folder, time.perf_counter() - began)
        self._player.start()

    @property
    def is_live(self) -> bool:
        """Whether requests that wait will be answered."""
        return self._player.is_alive

    @property
    def is_ready(self) -> bool:
        """Whether new requests are accepted."""
        return self.is_live and not self._stopping

    @property
    def in_flight(self) -> int:
        """Requests that were accepted and are not answered yet."""
        return self._in_flight

    def stop_accepting(self) -> None:
        """From now on requests get 503; those that were accepted go on. May be called in a signal handler."""
        self._stopping = True

    def close(self) -> None:
        """Answer what still waits with 503, and what is being made after its step; free the engines."""
        self._stopping = True
        fail(self._line.close(), stopped())
        self._player.close()
        self.bundle.close()

    def read(self, body: bytes) -> tuple[ImagesRequest, tuple[Truncation, ...]]:
        """A request that fits the bundle, and its prompts that are cut. Raises ApiError."""
        if self._stopping:
            raise stopped()
        asked = read_images_request(parse_body(body), self.servable)
        return asked, judge_asked(asked, self.bundle)

    @asynccontextmanager
    async def pictures(self, asked: ImagesRequest) -> AsyncIterator[asyncio.Future[list[Pixels]]]:
        """Wait in line. Leaving the body gives up what is not made by then. Raises ApiError, here or in the future."""
        samples = self._line.put(asked, self._retry_seconds())
        made = asyncio.ensure_future(_all(samples))
        self._in_flight += 1
        try:
            yield made
        finally:
            self._in_flight -= 1
            made.cancel()
            if made.done() and not made.cancelled():
                made.exception()  # nobody else may look at it any more
            for sample in samples:
                sample.picture.cancel()

    def _generated(self, pictures: int, seconds: float) -> None:
        self._batch_seconds += 0.3 * (seconds - self._batch_seconds)
        self.metrics.generated(pictures, seconds)

    def _retry_seconds(self) -> int:
        """When a place in the line is likely to be free: as long as one batch takes."""
        return min(3600, max(1, math.ceil(self._batch_seconds)))


async def _all(samples: list[Sample]) -> list[Pixels]:
    return list(await asyncio.gather(*(asyncio.wrap_future(sample.picture) for sample in samples)))
