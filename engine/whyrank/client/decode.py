"""A server's error response as the exception that it stands for. Rows and rankings are read by wire.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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

__all__ = ["error_of"]


def error_of(status: int, body: Any, retry_after: str | None, request_id: str | None) -> WhyrankError:
    """The exception that the server meant, by its name where it gave one, else by the status."""
    fault = body.get("error") if isinstance(body, Mapping) else None
    fault = fault if isinstance(fault, Mapping) else {}
    message = str(fault.get("message") or _by_status(status))
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


_KINDS = {401: Unauthorized, 403: Unauthorized, 413: TooLarge}


def _by_status(status: int) -> str:
    where = ": is this the base URL of a whyrank server?" if status == 404 else ""
    return f"the server answered with status {status}{where}"
