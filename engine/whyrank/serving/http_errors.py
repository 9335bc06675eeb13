"""Maps exceptions to HTTP status, kind and message. Each dialect has its own body around them."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

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
from whyrank.serving.context import request_id

__all__ = ["error_headers", "to_http_error"]

logger = logging.getLogger(__name__)

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


def to_http_error(request: Request, error: Exception) -> tuple[int, str, str]:
    """Status, kind and message. An unexpected error is logged, and its details stay in the log."""
    match error:
        case RequestValidationError():
            return 400, "InvalidRequest", _validation_message(error)
        case HTTPException(__cause__=WhyrankError() as cause):
            return to_http_error(request, cause)
        case HTTPException():  # FastAPI's, where the body could not be read
            return error.status_code, "InvalidRequest", _unreadable_message(error)
        case RecursionError():
            return 400, "InvalidRequest", "the body is nested too deeply"
        case WhyrankError():
            status = error.status or next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500)
            return status, type(error).__name__, str(error)
    logger.error("request %s failed", request_id(request), exc_info=error)
    return 500, "InternalError", "internal error; see the server's log"


def error_headers(error: Exception) -> dict[str, str]:
    """Headers that tell the caller what to do next: retry later, or send a key."""
    match error:
        case Overloaded():
            return {"Retry-After": str(error.retry_after)}
        case EngineDead() | EnginePaused() | Stopping():
            return {"Retry-After": "10"}
        case Unauthorized():
            return {"WWW-Authenticate": 'Basic realm="whyrank: any name, the API key as password", charset="UTF-8"'}
    return {}


def _unreadable_message(error: HTTPException) -> str:
    match error.__cause__:
        case RecursionError():
            return "the body is nested too deeply"
        case UnicodeDecodeError():
            return "the body is not JSON: it is not UTF-8"
        case ValueError() as cause:
            return f"the body is not JSON: {str(cause).partition(';')[0]}"  # what follows is Python's advice to programmers
    return str(error.detail)


def _validation_message(error: RequestValidationError) -> str:
    """The first error and its location. Never the value: it may be confidential text."""
    faults = error.errors()
    first = faults[0]
    if first["type"] == "json_invalid":
        return (
            f"the body is not JSON: {first.get('ctx', {}).get('error', first['msg'])} at character {first['loc'][-1]}"
        )
    if isinstance(error.body, bytes):
        return "the body is not JSON: send it with the header 'Content-Type: application/json'"
    where = _place(first, error.body)
    # pydantic reports one error for each branch of a union.
    messages = dict.fromkeys(fault["msg"] for fault in faults if _place(fault, error.body) == where)
    return f"{where or 'the body'}: {', or '.join(messages)}"


def _place(fault: Any, body: Any) -> str:
    """The path to the error in the body, without pydantic's names for the branches of a union."""
    path = ""
    *_, last = fault["loc"]
    for part in fault["loc"][1:]:
        if isinstance(body, dict | list) and (part in body if isinstance(body, dict) else isinstance(part, int)):
            body = body[part]
        elif part is not last or fault["type"] != "missing":
            continue
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path
