"""The errors of the native routes, and the router that returns them."""

from __future__ import annotations

from fastapi import APIRouter, Request
from typing_extensions import TypedDict

from whyrank.serving.compat.voyage import VOYAGE, is_voyages
from whyrank.serving.context import request_id
from whyrank.serving.guarded_route import ErrorStyle, new_router
from whyrank.serving.http_errors import to_http_error

__all__ = ["NATIVE", "Failed", "NativeError", "failed", "native_error", "native_router", "style_of"]


class Fault(TypedDict):
    message: str
    type: str
    param: None
    code: int
    request_id: str


class Failed(TypedDict):
    error: Fault


class NativeError(Failed):
    message: str
    detail: str


def native_error(status: int, kind: str, message: str, request_id: str) -> NativeError:
    """The format of vLLM and OpenAI, plus the keys in which Cohere's, Jina's and Voyage's clients look for the message."""
    fault: Fault = {"message": message, "type": kind, "param": None, "code": status, "request_id": request_id}
    return {"error": fault, "message": message, "detail": message}


def failed(error: Exception, raw: Request) -> Failed:
    """An error within a successful response: of one request among several, or in a stream."""
    return {"error": native_error(*to_http_error(raw, error), request_id(raw))["error"]}


NATIVE = ErrorStyle(native_error, NativeError)


def style_of(request: Request) -> ErrorStyle | None:
    """Voyage's client uses native paths, too, and fails on an error that is an object."""
    return VOYAGE if is_voyages(request) else None


def native_router() -> APIRouter:
    return new_router("whyrank", NATIVE, [VOYAGE], style_of)
