"""The HTTP side of a Service as an ASGI application: OpenAI's images API, health and metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..errors import SodaError
from ..prompts import Truncation
from .api_error import FAULT, ApiError
from .images_request import ImagesRequest
from .metrics import CONTENT_TYPE
from .png import png_base64
from .servable import describe
from .service import Service

_MOST_BODY_BYTES = 1 << 20
_LEFT = 499  # nginx's code for a client that closed its connection; nobody reads it


def make_app(service: Service) -> Starlette:
    """Routes of one service."""
    return Starlette(
        routes=[
            Route("/v1/images/generations", _generations(service), methods=["POST"]),
            Route("/v1/models", _models(service)),
            Route("/v1/models/{name:path}", _models(service)),
            Route("/health", _health(service)),
            Route("/health/live", _live(service)),
            Route("/health/ready", _health(service)),
            Route("/metrics", _metrics(service)),
        ],
        exception_handlers={HTTPException: _unrouted, ApiError: _refused, Exception: _failed},
    )


def _generations(service: Service) -> Callable[[Request], Awaitable[Response]]:
    async def generations(request: Request) -> Response:
        began, status = time.monotonic(), _LEFT
        try:
            response = await _answer(service, request)
            status = response.status_code
        except ApiError as error:
            status = error.status
            raise
        except Exception:
            status = 500
            raise
        finally:  # where the handler is cancelled, too
            service.metrics.answered(status, time.monotonic() - began)
        return response

    return generations


async def _answer(service: Service, request: Request) -> Response:
    asked, truncated = service.read(await _body(request))
    async with service.pictures(asked) as made:
        leaves = asyncio.ensure_future(_has_left(request))
        either: set[asyncio.Future[Any]] = {made, leaves}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not made.done():
                return Response(status_code=_LEFT)
            pictures = made.result()
        finally:
            leaves.cancel()
        encoded = await asyncio.gather(*(asyncio.to_thread(png_base64, picture) for picture in pictures))
    return JSONResponse(_told(asked, truncated, encoded))


def _told(asked: ImagesRequest, truncated: Sequence[Truncation], encoded: Sequence[str]) -> dict[str, object]:
    """OpenAI's answer, the seed, which makes the same pictures again, and what the model did not read of prompts."""
    return {
        "created": int(time.time()), "data": [{"b64_json": picture} for picture in encoded], "output_format": "png",
        "seed": asked.seed, "truncated": {each.field: each.lost for each in truncated},
    }  # fmt: skip


async def _body(request: Request) -> bytes:
    """Raises ApiError where it is too long."""
    body = bytearray()
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > _MOST_BODY_BYTES:
                raise ApiError(413, f"the body has more than {_MOST_BODY_BYTES} bytes")
    except ClientDisconnect:
        raise ApiError(_LEFT, "the client left") from None
    return bytes(body)


async def _has_left(request: Request) -> None:
    """Returns when the client closes its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _models(service: Service) -> Callable[[Request], Awaitable[Response]]:
    served = service.servable
    model = {
        "id": served.name, "object": "model", "created": service.began, "owned_by": "soda-export",
        "soda": describe(served, service.bundle.manifest),
    }  # fmt: skip

    async def models(request: Request) -> Response:
        name = request.path_params.get("name")
        if name not in (None, served.name):
            raise ApiError(404, f"no such model; this server has {served.name}", "model", "model_not_found")
        return JSONResponse({"object": "list", "data": [model]} if name is None else model)

    return models


def _health(service: Service) -> Callable[[Request], Awaitable[Response]]:
    async def health(_: Request) -> Response:
        ready = service.is_ready
        return JSONResponse({"live": service.is_live, "ready": ready}, 200 if ready else 503)

    return health


def _live(service: Service) -> Callable[[Request], Awaitable[Response]]:
    async def live(_: Request) -> Response:
        return JSONResponse({"live": service.is_live}, 200 if service.is_live else 503)

    return live


def _metrics(service: Service) -> Callable[[Request], Awaitable[Response]]:
    async def metrics(_: Request) -> Response:
        return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    return metrics


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body, error.status, error.headers)


async def _failed(_: Request, error: Exception) -> Response:
    """A bundle that is damaged, or a fault of ours; the log gets all of it from whoever called this application."""
    told = str(error) if isinstance(error, SodaError) else FAULT
    return JSONResponse(ApiError(500, told).body, 500)


async def _unrouted(request: Request, error: Exception) -> Response:
    """A path or a method that is not here."""
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path[:200]}"
    told = f"{what}: there is no such path" if error.status_code == 404 else f"{what}: {error.detail}"
    return JSONResponse(ApiError(error.status_code, told).body, error.status_code, dict(error.headers or {}))
