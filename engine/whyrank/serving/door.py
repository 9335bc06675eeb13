"""What every route has in front of it: the key, the size of the body, errors as the caller's client expects them, and
stopping the work of callers who have gone."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from whyrank.errors import EngineDead, InvalidRequest, Overloaded, Stopping, TooLarge, Unauthorized, WhyrankError
from whyrank.serving import metrics
from whyrank.serving.service import Service

__all__ = ["ErrorShape", "failure", "request_id", "route_class", "service_of"]

logger = logging.getLogger(__name__)

ErrorShape = Callable[[int, str, str, str], dict[str, Any]]
"""(status, kind, message, request id) → the body of an error in some dialect."""

_STATUS: dict[type[WhyrankError], int] = {
    InvalidRequest: 400,
    Unauthorized: 401,
    TooLarge: 413,
    Overloaded: 429,
    EngineDead: 503,
    Stopping: 503,
}
# nginx's number for a caller who has gone; nobody reads it, but metrics count it.
_GONE = 499


def service_of(request: Request) -> Service:
    service = getattr(request.app.state, "whyrank", None)
    if service is None:
        raise Overloaded("the server is still starting", 5)
    assert isinstance(service, Service)
    return service


def request_id(request: Request) -> str:
    """The caller's own X-Request-Id, or one made up, the same all through the request."""
    if not hasattr(request.state, "whyrank_request_id"):
        given = request.headers.get("x-request-id", "")
        request.state.whyrank_request_id = given if 0 < len(given) <= 128 else uuid.uuid4().hex
    return str(request.state.whyrank_request_id)


def route_class(shape: ErrorShape, invalid: int = 400) -> type[APIRoute]:
    """A route whose errors have this shape. `invalid`: the status that the dialect has for a body that makes no sense."""

    class Door(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
            answer = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                try:
                    response = await _admitted(request, answer)
                except Exception as error:
                    response = failure(request, error, shape, invalid)
                metrics.count_request(self.path, response.status_code)
                response.headers["X-Request-Id"] = request_id(request)
                if (service := getattr(request.app.state, "whyrank", None)) is not None:
                    response.headers["X-Whyrank-Identity"] = service.identity
                return response

            return guarded

    return Door


async def _admitted(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
    service = service_of(request)
    request.state.whyrank_salt = service.tenant(_key(request))
    size = _announced_size(request)
    service.limits.check_body(size)
    with service.admission.holding(size):
        body = await _body(request, service)
        return await _while_connected(request, body, answer)


def _key(request: Request) -> str | None:
    """From a bearer token, or from the password that a browser asks for."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    match scheme.lower():
        case "bearer":
            return value.strip()
        case "basic":
            try:
                return base64.b64decode(value, validate=True).decode().partition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                return None
    return None


def _announced_size(request: Request) -> int:
    length = request.headers.get("content-length", "")
    return int(length) if length.isdecimal() else 0


async def _body(request: Request, service: Service) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        service.limits.check_body(len(body))
    return bytes(body)


async def _while_connected(request: Request, body: bytes, answer: Callable[[Request], Awaitable[Response]]) -> Response:
    """The answer, unless the caller leaves first: then the work is cancelled, which frees the engine."""
    given = False

    async def replay() -> Any:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await request.receive()

    work = asyncio.ensure_future(answer(Request(request.scope, replay)))
    gone = asyncio.ensure_future(_until_gone(request))
    try:
        await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        return Response(status_code=_GONE)
    finally:
        for task in (work, gone):
            task.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def failure(request: Request, error: Exception, shape: ErrorShape, invalid: int = 400) -> Response:
    """The response for an error. What we did not foresee is logged and told without its details."""
    headers: dict[str, str] = {}
    match error:
        case RequestValidationError():
            status, kind, message = invalid, "InvalidRequest", _what_is_wrong(error)
        case WhyrankError():
            status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500)
            status = invalid if status == 400 else status
            kind, message = type(error).__name__, str(error)
        case _:
            logger.exception("request %s failed", request_id(request))
            status, kind, message = 500, "InternalError", "something went wrong in the server; its log says what"
    if isinstance(error, Overloaded):
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, EngineDead | Stopping):
        headers["Retry-After"] = "10"
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = 'Basic realm="whyrank: any name, the API key as password", charset="UTF-8"'
    if status in (401, 413, 429, 503):
        metrics.refused(kind)
    return JSONResponse(shape(status, kind, message, request_id(request)), status, headers)


def _what_is_wrong(error: RequestValidationError) -> str:
    """The first fault, with where it is. Never the value: it may be somebody's text."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return (
            f"the body is not JSON: {first.get('ctx', {}).get('error', first['msg'])} at character {first['loc'][-1]}"
        )
    path = ""
    for part in first["loc"][1:]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return f"{path or 'the body'}: {first['msg']}"
