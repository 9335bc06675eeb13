"""What every route needs to know about its request: the service, the caller's API key, the id for logs."""

from __future__ import annotations

import base64
import binascii
import uuid
from collections.abc import Mapping
from typing import Any

from fastapi import Request
from starlette.requests import HTTPConnection

from whyrank.errors import Overloaded
from whyrank.serving.service import Service

__all__ = ["api_key_of", "body_of", "request_id", "service_of"]


def service_of(request: Request) -> Service:
    service = getattr(request.app.state, "whyrank", None)
    if service is None:
        raise Overloaded("the server is still starting", 5)
    assert isinstance(service, Service)
    return service


def body_of(request: Request) -> Mapping[str, Any]:
    """The body as received, if it has been read and is an object; otherwise empty."""
    body: Mapping[str, Any] = getattr(request.state, "whyrank_body", {})
    return body


def request_id(request: Request) -> str:
    """The caller's own X-Request-Id, or a generated one; the same throughout the request."""
    if not hasattr(request.state, "whyrank_request_id"):
        given = request.headers.get("x-request-id", "")
        request.state.whyrank_request_id = given if 0 < len(given) <= 128 else uuid.uuid4().hex
    return str(request.state.whyrank_request_id)


def api_key_of(connection: HTTPConnection, basic: bool = True) -> str | None:
    """The key in a bearer token or, with `basic`, in the password of basic authentication, which browsers prompt for."""
    scheme, _, value = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic" and basic:
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return None
    return None
