"""What GET /metrics tells Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0)
_SAMPLES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Of one server: several in a process do not mix."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "soda_requests", "Requests for pictures by the status of their answer; 499: the client left.", ["status"],
            registry=self._registry,
        )  # fmt: skip
        self._request_seconds = Histogram(
            "soda_request_seconds", "From the arrival of a request to its answer of status 200.", buckets=_SECONDS,
            registry=self._registry,
        )  # fmt: skip
        self._pictures = Counter("soda_pictures", "Pictures made.", registry=self._registry)
        self._batch = Histogram(
            "soda_batch_pictures", "Pictures made at once.", buckets=_SAMPLES, registry=self._registry
        )
        self._batch_seconds = Histogram(
            "soda_batch_seconds", "Time of a batch, without its waiting.", buckets=_SECONDS, registry=self._registry
        )
        self._waiting = Gauge("soda_requests_waiting", "Requests in the queue.", registry=self._registry)
        self._in_flight = Gauge(
            "soda_requests_in_flight", "Requests accepted and not answered yet.", registry=self._registry
        )

    def watch(self, waiting: Callable[[], int], in_flight: Callable[[], int]) -> None:
        """Where the gauges read."""
        self._waiting.set_function(waiting)
        self._in_flight.set_function(in_flight)

    def answered(self, status: int, seconds: float) -> None:
        """A request for pictures has ended."""
        self._requests.labels(str(status)).inc()
        if status == 200:
            self._request_seconds.observe(seconds)

    def generated(self, pictures: int, seconds: float) -> None:
        """A batch is done."""
        self._pictures.inc(pictures)
        self._batch.observe(pictures)
        self._batch_seconds.observe(seconds)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)
