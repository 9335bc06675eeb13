"""Decodes a server's response: the result that wire/ reads from it, or the exception that an error response stands for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from whyrank import errors
from whyrank.errors import (
    InvalidRequest,
    Overloaded,
    PermanentError,
    RetryableError,
    TooLarge,
    Unauthorized,
    Unreachable,
    WhyrankError,
)

__all__ = ["decoded", "error_of"]

T = TypeVar("T")


def decoded(read: Callable[..., T], *received: Any) -> T:
    """The result of `read`, or Unreachable if the response is not one that a whyrank server sends."""
    try:
        return read(*received)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as cause:
        raise Unreachable(f"the server's answer is not what whyrank sends: {type(cause).__name__}: {cause}") from cause


def error_of(status: int, body: Any, retry_after: str | None, request_id: str | None) -> WhyrankError:
    """The exception for an error response: by the error type it names, else by its status."""
    fault = body.get("error") if isinstance(body, Mapping) else None
    fault = fault if isinstance(fault, Mapping) else {}
    message = str(fault.get("message") or f"the server answered with status {status}{_REMEDIES.get(status, '')}")
    seconds = int(retry_after) if retry_after is not None and retry_after.isdecimal() else None
    kind = getattr(errors, str(fault.get("type")), None)
    error: WhyrankError
    if status == 429 or kind is Overloaded:
        error = Overloaded(message, 1 if seconds is None else seconds)
    elif isinstance(kind, type) and issubclass(kind, PermanentError | RetryableError):
        error = kind(message)
    elif status >= 500 or status == 408:
        error = Unreachable(message)
    else:
        error = _KINDS.get(status, InvalidRequest)(message)
    if isinstance(error, RetryableError):
        error.retry_after = error.retry_after if seconds is None else seconds
    error.status, error.request_id = status, request_id or fault.get("request_id")
    return error


_REMEDIES = {
    401: ": it requires an API key, or a different one",
    404: ": is this the base URL of a whyrank server?",
}
_KINDS = {401: Unauthorized, 403: Unauthorized, 413: TooLarge}
