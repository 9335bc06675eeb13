"""API keys for every route that does not check them itself, and engine settings that no caller of vLLM's routes may set."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import APIRouter
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from whyrank.errors import InvalidRequest, Unauthorized, WhyrankError
from whyrank.serving import metrics
from whyrank.serving.bodies import parse_json, read_body
from whyrank.serving.context import api_key_of, request_id, service_of
from whyrank.serving.http_errors import to_http_error
from whyrank.serving.native.errors import native_error
from whyrank.serving.responses import JsonResponse
from whyrank.serving.service import Service

__all__ = ["ApiKeyMiddleware", "endpoints_of"]

_PRIORITY_HEADER = "x-vllm-priority"
_ENGINE_FIELDS = ("priority", "cache_salt")
_CHALLENGES = {
    True: 'Basic realm="whyrank: any name, the API key as password", charset="UTF-8"',
    False: "Bearer",
}


def endpoints_of(routers: Iterable[APIRouter]) -> frozenset[Any]:
    return frozenset(getattr(route, "endpoint", None) for router in routers for route in router.routes)


class ApiKeyMiddleware:
    """Checks the API key. whyrank's own routes (`endpoints`) check it themselves, so as to refuse in the dialect of their
    callers; all other routes, and paths that do not exist, are checked here. No key is needed for two of our own, /health and
    Xinference's /v1/cluster/auth, and for /metrics unless `protect_metrics`."""

    def __init__(self, app: ASGIApp, endpoints: frozenset[Any], protect_metrics: bool) -> None:
        self._app = app
        self._endpoints = endpoints
        self._protect_metrics = protect_metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and not self._is_open(_matching_route(scope)):
            try:
                receive = await self._check(HTTPConnection(scope), receive)
            except ClientDisconnect:
                return None
            except WhyrankError as error:
                return await _refusal(HTTPConnection(scope), error)(scope, receive, send)
        await self._app(scope, receive, send)

    def _is_open(self, route: BaseRoute | None) -> bool:
        if getattr(route, "endpoint", None) in self._endpoints:
            return True
        return getattr(route, "path", None) == "/metrics" and not self._protect_metrics

    async def _check(self, connection: HTTPConnection, receive: Receive) -> Receive:
        service = service_of(connection)  # type: ignore[arg-type]
        tenant = service.tenant(api_key_of(connection, basic=_takes_basic(connection)))
        if not service.wants_key or connection.scope["type"] != "http" or _matching_route(connection.scope) is None:
            return receive  # for a path that does not exist, the body need not be checked
        return _replay(await _checked_body(Request(connection.scope, receive), service, tenant or ""), receive)


def _matching_route(scope: Scope) -> BaseRoute | None:
    """The route that will answer, found as the router itself finds it."""
    return next((route for route in scope["app"].router.routes if route.matches(scope)[0] is Match.FULL), None)


def _takes_basic(connection: HTTPConnection) -> bool:
    """Browsers send a password by themselves, even for requests from foreign pages, so it is accepted only for reading."""
    return connection.scope.get("method") in ("GET", "HEAD")


async def _checked_body(request: Request, service: Service, tenant: str) -> bytes:
    """Refuses fields that vLLM would pass to its engine unchecked, past the queue order and cache separation of tenants."""
    if _PRIORITY_HEADER in request.headers:
        raise InvalidRequest(f"the header {_PRIORITY_HEADER}: a server with API keys sets it itself; leave it out")
    with service.admission.holding(tenant) as hold:
        body = await read_body(request, service.limits, service.body_seconds, hold)
    try:
        content = await parse_json(body) if body else None
    except (ValueError, RecursionError) as cause:
        raise InvalidRequest("the body is not JSON") from cause
    for name in _ENGINE_FIELDS:
        if isinstance(content, dict) and name in content:
            raise InvalidRequest(f"{name}: a server with API keys sets it itself; leave it out")
    return body


def _replay(body: bytes, receive: Receive) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed


def _refusal(connection: HTTPConnection, error: WhyrankError) -> JsonResponse:
    status, kind, message = to_http_error(connection, error)  # type: ignore[arg-type]
    headers = {"X-Request-Id": request_id(connection)}  # type: ignore[arg-type]
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = _CHALLENGES[_takes_basic(connection)]
    metrics.refused(kind)
    return JsonResponse(native_error(status, kind, message, headers["X-Request-Id"]), status, headers)
