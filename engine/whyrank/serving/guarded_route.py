"""What happens to a request before and after its handler, in order: key, body, handler, errors, headers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import Any, ClassVar

from fastapi import APIRouter, Depends, Request, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.requests import ClientDisconnect

from whyrank.serving import metrics
from whyrank.serving.bodies import parse_json, read_body
from whyrank.serving.context import api_key_of, request_id, service_of
from whyrank.serving.http_errors import error_headers, to_http_error
from whyrank.serving.responses import JsonResponse
from whyrank.serving.tracing import request_span

__all__ = ["ErrorStyle", "GuardedRoute", "new_router"]

Handler = Callable[[Request], Awaitable[Response]]

# nginx's status for a client that disconnected; nobody reads the response, but metrics count it.
_CLIENT_GONE = 499


@dataclass(frozen=True, slots=True)
class ErrorStyle:
    """The error format of a dialect. `body` makes one from status, kind, message and request id, of type `model`; `statuses`
    maps our statuses to the dialect's where they differ."""

    body: Callable[[int, str, str, str], Any]
    model: Any
    statuses: Mapping[int, int] = field(default_factory=dict)


StyleOf = Callable[[Request], ErrorStyle | None]
"""The style for a request in another dialect than the route's, found from its headers and, once read, its body."""


class GuardedRoute(APIRoute):
    error_style: ClassVar[ErrorStyle]
    style_of: ClassVar[StyleOf]

    def get_route_handler(self) -> Handler:  # type: ignore[override]
        handler = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            with request_span(request.method, self.path, request.headers) as span:
                try:
                    response = await _admit(request, handler)
                except ClientDisconnect:
                    response = Response(status_code=_CLIENT_GONE)
                except Exception as error:
                    response = self._error_response(request, error)
                span.set_attribute("http.response.status_code", response.status_code)
            metrics.count_request(self.path, response.status_code)
            response.headers["X-Request-Id"] = request_id(request)
            if (service := getattr(request.app.state, "whyrank", None)) is not None:
                response.headers["X-Whyrank-Identity"] = service.instance_id
            return response

        return guarded

    def _error_response(self, request: Request, error: Exception) -> Response:
        status, kind, message = to_http_error(request, error)
        style = type(self).style_of(request) or self.error_style
        # The exception may carry a more specific status.
        status = getattr(error, "status", None) or style.statuses.get(status, status)
        headers = error_headers(error)
        if not hasattr(request.state, "whyrank_body_size") and request.method == "POST":
            headers["Connection"] = "close"  # do not wait for the rest of the body
        if status in (401, 408, 413, 429, 503):
            metrics.refused(kind)
        return JsonResponse(style.body(status, kind, message, request_id(request)), status, headers)


async def _admit(request: Request, handler: Handler) -> Response:
    """Check the key and the announced size, read the body, and hand both to the handler."""
    service = service_of(request)
    tenant = service.tenant(api_key_of(request))
    request.state.whyrank_salt = tenant
    length = request.headers.get("content-length", "")
    # A number with more digits is too large as well, and Python would refuse to parse it.
    service.limits.check_body(int(length[:20]) if length.isdecimal() else 0)
    # Without API keys, callers with the same address share one sender's quota of body memory.
    address = request.client.host if request.client else ""
    with service.admission.holding(tenant or address) as hold:
        body = await read_body(request, service.limits, service.body_seconds, hold)
        request.state.whyrank_body_size = len(body)
        return await _while_connected(request, body, handler)


async def _while_connected(request: Request, body: bytes, handler: Handler) -> Response:
    """The handler's response. If the client disconnects first, the handler is cancelled, which frees the engine."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Any:
        return messages.pop() if messages else await request.receive()

    work = asyncio.ensure_future(handler(_StrictJsonRequest(request.scope, replay)))
    gone = asyncio.ensure_future(_until_gone(request))
    try:
        await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        return work.result() if work.done() else Response(status_code=_CLIENT_GONE)
    finally:
        for task in (work, gone):
            task.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _StrictJsonRequest(Request):
    """The request that FastAPI reads the body through. Keeps the body for `style_of`, which chooses the error style."""

    async def json(self) -> Any:
        body = await parse_json(await self.body())
        self.state.whyrank_body = body if isinstance(body, dict) else {}
        return body


_ERRORS = {
    400: "The request is invalid; the message says what is wrong.",
    401: "The API key is missing or wrong.",
    404: "Unknown page, or, with --strict-model, a model that is not served.",
    413: "Too many documents, or a text or body that is too large; the message names the limit.",
    422: "Like 400, on TEI's routes.",
    429: "The server is busy; retry after the seconds in Retry-After.",
    500: "Internal error; the server's log has it under the request's id.",
    503: "The engine has died or is paused; retry after the seconds in Retry-After.",
}
# For OpenAPI only: the key is checked above.
_API_KEY = Depends(HTTPBearer(auto_error=False, description="The server's --api-key, if it has one."))


def new_router(
    tag: str, style: ErrorStyle, others: Sequence[ErrorStyle] = (), style_of: StyleOf | None = None
) -> APIRouter:
    """A router of guarded routes. `style_of` picks one of `others` for a request in another dialect."""
    chosen = staticmethod(style_of or (lambda request: None))
    route_class = type("GuardedRoute", (GuardedRoute,), {"error_style": style, "style_of": chosen})
    model = reduce(or_, (one.model for one in (style, *others)))
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": model, "description": description} for status, description in _ERRORS.items()
    }
    return APIRouter(route_class=route_class, tags=[tag], responses=errors, dependencies=[_API_KEY])
