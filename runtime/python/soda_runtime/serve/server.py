"""Listen, answer, and end well: what was accepted is answered before the process ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from types import FrameType

import uvicorn

from ..errors import RequestError
from .app import make_app
from .options import ServeOptions, check_options
from .service import Service

log = logging.getLogger(__name__)
_TICK_SECONDS = 0.05
_SLOW_READER_SECONDS = 5  # how long a client may take to read its answer when all else is done


class Server:
    """One service on one listening socket. `serve` returns after `stop`."""

    def __init__(self, service: Service, listening: socket.socket) -> None:
        self._service, self._socket = service, listening
        host, port = listening.getsockname()[:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Refuse what is new, answer what was accepted, and return from `serve`. From threads and signal handlers."""
        self._service.stop_accepting()
        self._stopped.set()

    def serve(self) -> None:
        """Until `stop`, and until what was accepted is answered or the time for that is over."""
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        config = uvicorn.Config(
            make_app(self._service), lifespan="off", log_config=None, log_level="warning", access_log=False,
            timeout_graceful_shutdown=_SLOW_READER_SECONDS,
        )  # fmt: skip
        server = _Quiet(config)
        serving = asyncio.ensure_future(server.serve(sockets=[self._socket]))
        try:
            while not self._stopped.is_set() and not serving.done():
                await asyncio.sleep(_TICK_SECONDS)
            end = time.monotonic() + self._service.options.drain_seconds
            while self._service.in_flight and time.monotonic() < end:
                await asyncio.sleep(_TICK_SECONDS)
            await asyncio.to_thread(self._service.close)  # whatever is left is refused
        finally:
            server.should_exit = True
            await serving


class _Quiet(uvicorn.Server):
    """Leaves signals to whoever called."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:  # type: ignore[override]
        yield


def serve_bundle(path: str, options: ServeOptions) -> None:
    """Serve a bundle until SIGTERM or SIGINT, which is raised again when all is answered; a second one ends the process
    at once. Raises SodaError."""
    check_options(options)
    with listen(options.host, options.port) as listening:  # first: a port that is taken is known at once
        _serve_at(listening, Service.open(path, options))


def _serve_at(listening: socket.socket, service: Service) -> None:
    server = Server(service, listening)
    came: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:
            os._exit(128 + number)
        server.stop()

    heard = {int(number): signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    served = service.servable
    log.info("serve: %s at %s/v1, up to %d pictures at once", served.name, server.url, service.options.batch)
    try:
        server.serve()
    finally:
        for number, handler in heard.items():
            signal.signal(number, handler)
    for number in came[:1]:
        signal.raise_signal(number)


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections from now on. Raises RequestError."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        number = error.errno or 0  # of a name that is not found, negative
        why = os.strerror(number) if number > 0 else "there is no such address"
        raise RequestError(f"--host {host} --port {port}: cannot listen there ({why}); name another") from None
