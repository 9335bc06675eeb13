"""JSON responses, encoded without blocking the event loop."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Mapping
from typing import Any

from fastapi import Response
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from whyrank.wire.responses import to_json

__all__ = ["JsonResponse"]

# Bytes. A response is hardly larger than its request, even if it repeats all documents.
_LARGE_BODY = 1 << 20
# Bytes from which a response is worth compressing.
_LARGE_ANSWER = 64 << 10


class JsonResponse(Response):
    """Accepts any text that a caller may send, even lone surrogates. Encoded when it is sent: if the request was large, row by
    row in a thread, off the event loop. Large responses are compressed for clients that accept it."""

    media_type = "application/json"

    def __init__(self, content: Any, status_code: int = 200, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(None, status_code, headers)
        self._content = content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        large = scope.get("state", {}).get("whyrank_body_size", 0) > _LARGE_BODY
        self.body = await asyncio.to_thread(_by_rows, self._content) if large else to_json(self._content)
        if len(self.body) > _LARGE_ANSWER:
            self.headers["vary"] = "Accept-Encoding"
            if "gzip" in Headers(scope=scope).get("accept-encoding", ""):
                self.headers["content-encoding"] = "gzip"
                self.body = await asyncio.to_thread(gzip.compress, self.body, 1)
        self.headers["content-length"] = str(len(self.body))
        await super().__call__(scope, receive, send)


def _by_rows(content: Any) -> bytes:
    """to_json in steps, one per list item or, for rankings in a list, one per row: other threads can run in between."""
    match content:
        case dict():
            return b"{" + b",".join(to_json(key) + b":" + _by_rows(value) for key, value in content.items()) + b"}"
        case list():
            return b"[" + b",".join(_by_rows(value) if _has_rows(value) else to_json(value) for value in content) + b"]"
    return to_json(content)


def _has_rows(value: Any) -> bool:
    return isinstance(value, dict) and "results" in value
