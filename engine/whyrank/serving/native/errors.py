"""The errors of the native routes, and the router that gives them."""

from __future__ import annotations

from fastapi import APIRouter, Request

from whyrank.serving.compat.voyage import VOYAGE
from whyrank.serving.context import request_id
from whyrank.serving.guarded_route import ErrorStyle, new_router
from whyrank.serving.http_errors import to_http_error
from whyrank.serving.native.protocol import NativeError, NativeFault, native_error

__all__ = ["NATIVE", "fault_of", "native_router"]

NATIVE = ErrorStyle(native_error, NativeError)


def native_router() -> APIRouter:
    """Voyage's client uses native paths, too, and always sends its top_k."""
    return new_router("whyrank", NATIVE, top_k=VOYAGE)


def fault_of(error: Exception, raw: Request) -> NativeFault:
    """An error within a response whose status is good: of one request among several, or in a stream."""
    return native_error(*to_http_error(raw, error), request_id(raw))["error"]
