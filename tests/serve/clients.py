"""A server in a thread, and clients that talk to it."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from soda_runtime.serve.options import ServeOptions
from soda_runtime.serve.server import Server, listen
from soda_runtime.serve.service import Service

PICTURES = "/v1/images/generations"


@dataclass(frozen=True)
class Answer:
    """What came back. body: parsed where it is JSON."""

    status: int
    headers: dict[str, str]
    body: Any

    @property
    def error(self) -> dict[str, Any]:
        """OpenAI's."""
        error: dict[str, Any] = self.body["error"]
        return error

    @property
    def pictures(self) -> NDArray[np.uint8]:
        """[n, H, W, channels]"""
        assert self.status == 200, self.body
        return np.stack([decode(each["b64_json"]) for each in self.body["data"]])


def decode(text: str) -> NDArray[np.uint8]:
    """[H, W, channels] of a PNG in base64."""
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))
    return pixels.reshape(*pixels.shape[:2], -1)


def ask(port: int, method: str, path: str, content: bytes = b"") -> Answer:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, content)
    return read(connection)


def send(port: int, **fields: Any) -> http.client.HTTPConnection:
    """A request for pictures whose answer is not read yet."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", PICTURES, json.dumps(fields).encode())
    return connection


def read(connection: http.client.HTTPConnection) -> Answer:
    """The answer, after which the connection is closed."""
    with contextlib.closing(connection), connection.getresponse() as response:
        body, headers = response.read(), {name.lower(): value for name, value in response.getheaders()}
        is_json = headers.get("content-type") == "application/json"
        return Answer(response.status, headers, json.loads(body) if is_json else body.decode())


@dataclass(frozen=True)
class Running:
    """A server that runs."""

    service: Service
    server: Server
    port: int

    def post(self, **fields: Any) -> Answer:
        """Ask for pictures."""
        return read(send(self.port, **fields))

    def post_all(self, requests: list[dict[str, Any]]) -> list[Answer]:
        """Ask at once; answers in the order of the requests."""
        answers: dict[int, Answer] = {}

        def one(number: int) -> None:
            answers[number] = self.post(**requests[number])

        threads = [threading.Thread(target=one, args=(number,)) for number in range(len(requests))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [answers[number] for number in range(len(requests))]

    def get(self, path: str) -> Answer:
        return ask(self.port, "GET", path)


@contextmanager
def running(bundle: object, **settings: Any) -> Iterator[Running]:
    """Serve a bundle on a free port; when the body ends it is stopped, if the body did not do so."""
    options = ServeOptions(port=0, threads=1, **settings)
    with listen(options.host, options.port) as listening:
        service = Service.open(str(bundle), options)
        server = Server(service, listening)
        thread = threading.Thread(target=server.serve)
        thread.start()
        try:
            yield Running(service, server, listening.getsockname()[1])
        finally:
            server.stop()
            thread.join(60)
            assert not thread.is_alive()
