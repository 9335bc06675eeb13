"""What every route has in front of it: the key, the size of the body, errors as the caller's client expects them, and
stopping the work of callers who have gone."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.types import Receive, Scope, Send

from whyrank.errors import (
    EngineDead,
    EnginePaused,
    InvalidRequest,
    Overloaded,
    RequestTimeout,
    Stopping,
    TooLarge,
    Unauthorized,
    WhyrankError,
)
from whyrank.serving import metrics
from whyrank.serving.bodies import parse_json, read_body
from whyrank.serving.service import Service
from whyrank.wire import to_json

__all__ = ["ErrorStyle", "JsonResponse", "api_key_of", "request_id", "route_class", "service_of", "to_http_error"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ErrorStyle:
    """How a dialect tells of errors: the body from (status, kind, message, request id), and its status for a bad request."""

    body: Callable[[int, str, str, str], dict[str, Any]]
    invalid: int = 400


class JsonResponse(Response):
    """Takes whatever text its caller sent, half characters too. Becomes bytes when it is sent: a large one row by row in a
    thread, beside the event loop."""

    media_type = "application/json"

    def __init__(self, content: Any, status_code: int = 200, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(None, status_code, headers)
        self._content = content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        large = scope.get("state", {}).get("whyrank_body_size", 0) > _LARGE_BODY
        self.body = await asyncio.to_thread(_by_rows, self._content) if large else to_json(self._content)
        self.headers["content-length"] = str(len(self.body))
        await super().__call__(scope, receive, send)


def _by_rows(content: Any) -> bytes:
    """to_json, with a pause after every value of a list, in which other threads may run."""
    match content:
        case dict():
            return b"{" + b",".join(to_json(key) + b":" + _by_rows(value) for key, value in content.items()) + b"}"
        case list():
            return b"[" + b",".join(map(_row, content)) + b"]"
    return to_json(content)


def _row(value: Any) -> bytes:
    """A ranking among others has rows of its own."""
    return _by_rows(value) if isinstance(value, dict) and "results" in value else to_json(value)


_STATUS: dict[type[WhyrankError], int] = {
    InvalidRequest: 400,
    Unauthorized: 401,
    TooLarge: 413,
    RequestTimeout: 408,
    Overloaded: 429,
    EngineDead: 503,
    EnginePaused: 503,
    Stopping: 503,
}
# nginx's number for a caller who has gone; nobody reads it, but metrics count it.
_GONE = 499
# An answer is hardly larger than what was asked, with all documents repeated.
_LARGE_BODY = 1 << 20


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


def route_class(style: ErrorStyle, by_key: Mapping[str, ErrorStyle] | None = None) -> type[APIRoute]:
    """A route that tells of errors in this style. `by_key`: a body with this key is of another dialect, and has its style."""

    class Door(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
            answer = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                try:
                    response = await _admitted(request, answer)
                except ClientDisconnect:
                    response = Response(status_code=_GONE)
                except Exception as error:
                    keys = getattr(request.state, "whyrank_keys", ())
                    error_style = next((other for key, other in (by_key or {}).items() if key in keys), style)
                    response = _failure(request, error, error_style)
                metrics.count_request(self.path, response.status_code)
                response.headers["X-Request-Id"] = request_id(request)
                if (service := getattr(request.app.state, "whyrank", None)) is not None:
                    response.headers["X-Whyrank-Identity"] = service.identity
                return response

            return guarded

    return Door


async def _admitted(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
    service = service_of(request)
    tenant = service.tenant(api_key_of(request))
    request.state.whyrank_salt = tenant
    service.limits.check_body(_announced_size(request))
    with service.admission.holding(tenant or _address(request)) as hold:
        body = await read_body(request, service.limits, service.body_seconds, hold)
        request.state.whyrank_body_size = len(body)
        return await _while_connected(request, body, answer)


def _address(request: Request) -> str:
    """Without keys, who shares an address shares its part of the memory for bodies."""
    return request.client.host if request.client else ""


def api_key_of(connection: HTTPConnection, basic: bool = True) -> str | None:
    """From a bearer token or, with `basic`, from the password that a browser asks for."""
    scheme, _, value = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic" and basic:
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return None
    return None


def _announced_size(request: Request) -> int:
    length = request.headers.get("content-length", "")
    # Whatever has more digits than this is too large as well, and Python would not even read it.
    return int(length[:20]) if length.isdecimal() else 0


class _StrictJsonRequest(Request):
    async def json(self) -> Any:
        body = await parse_json(await self.body())
        self.state.whyrank_keys = body.keys() if isinstance(body, dict) else ()
        return body


async def _while_connected(request: Request, body: bytes, answer: Callable[[Request], Awaitable[Response]]) -> Response:
    """The answer, unless the caller leaves first: then the work is cancelled, which frees the engine."""
    given = False

    async def replay() -> Any:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await request.receive()

    work = asyncio.ensure_future(answer(_StrictJsonRequest(request.scope, replay)))
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


def _failure(request: Request, error: Exception, style: ErrorStyle) -> Response:
    status, kind, message = to_http_error(request, error)
    if status == 400:  # a dialect may say more exactly what is wrong with a request
        status = getattr(error, "status", None) or style.invalid
    headers: dict[str, str] = {}
    if isinstance(error, Overloaded):
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, EngineDead | EnginePaused | Stopping):
        headers["Retry-After"] = "10"
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = 'Basic realm="whyrank: any name, the API key as password", charset="UTF-8"'
    if not hasattr(request.state, "whyrank_body_size") and request.method == "POST":
        headers["Connection"] = "close"  # what is left of the body is not waited for
    if status in (401, 408, 413, 429, 503):
        metrics.refused(kind)
    return JsonResponse(style.body(status, kind, message, request_id(request)), status, headers)


def to_http_error(request: Request, error: Exception) -> tuple[int, str, str]:
    """Status, kind and message. What we did not foresee is logged and told without its details."""
    match error:
        case RequestValidationError():
            return 400, "InvalidRequest", _validation_message(error)
        case HTTPException(__cause__=WhyrankError() as cause):
            return to_http_error(request, cause)
        case HTTPException():  # how FastAPI says that the body could not be read
            return error.status_code, "InvalidRequest", _why_unreadable(error)
        case RecursionError():
            return 400, "InvalidRequest", "the body is nested too deeply"
        case WhyrankError():
            status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500)
            return status, type(error).__name__, str(error)
    logger.error("request %s failed", request_id(request), exc_info=error)
    return 500, "InternalError", "something went wrong in the server; its log says what"


def _why_unreadable(error: HTTPException) -> str:
    match error.__cause__:
        case RecursionError():
            return "the body is nested too deeply"
        case UnicodeDecodeError():
            return "the body is not JSON: it is not UTF-8"
        case ValueError() as cause:
            return f"the body is not JSON: {str(cause).partition(';')[0]}"  # then Python's own advice to programmers
    return str(error.detail)


def _validation_message(error: RequestValidationError) -> str:
    """The first fault, with where it is. Never the value: it may be somebody's text."""
    faults = error.errors()
    first = faults[0]
    if first["type"] == "json_invalid":
        return (
            f"the body is not JSON: {first.get('ctx', {}).get('error', first['msg'])} at character {first['loc'][-1]}"
        )
    if isinstance(error.body, bytes):
        return "the body is not JSON: send it with the header 'Content-Type: application/json'"
    where = _place(first, error.body)
    # A value that may be one of several things has a fault for each.
    messages = dict.fromkeys(fault["msg"] for fault in faults if _place(fault, error.body) == where)
    return f"{where or 'the body'}: {', or '.join(messages)}"


def _place(fault: Any, body: Any) -> str:
    """The way to the fault, without the names that pydantic gives to the branches of a union."""
    path = ""
    *_, last = fault["loc"]
    for part in fault["loc"][1:]:
        if isinstance(body, dict | list) and (part in body if isinstance(body, dict) else isinstance(part, int)):
            body = body[part]
        elif part is not last or fault["type"] != "missing":
            continue
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path
