"""Request bodies: read with a minimum pace and a size limit, and parsed without blocking the event loop."""

from __future__ import annotations

import asyncio
import json
import math
import re
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NoReturn

from fastapi import Request

from whyrank.errors import InvalidRequest, RequestTimeout, TooLarge
from whyrank.serving.admission import Limits

__all__ = ["MAX_VALUES", "parse_json", "read_body"]

_MIN_BYTES_PER_SECOND = 16 << 10
# Smaller bodies are parsed on the event loop: that takes less time than handing them to a thread.
_SMALL = 64 << 10
_MAX_PIECE = 1 << 20
# Enough for a thousand documents with two hundred values of metadata each.
MAX_VALUES = 250_000
_WRONG_FIRST_ITEM = re.compile(
    rb'"(documents|texts|queries|requests|rank_fields|text_[12])"\s{0,9}:\s{0,9}\[\s{0,9}[^\s"{\]]'
)


async def read_body(request: Request, limits: Limits, seconds: float, hold: Callable[[int], None]) -> bytes:
    """A body has `seconds` to arrive, plus time in proportion to what has arrived: a slow network is served, a silent caller
    is not. A compressed body is decompressed as it arrives, within the same limits.

    `hold` is called with the size of each part that arrives. Raises RequestTimeout, TooLarge, InvalidRequest or what `hold`
    raises."""
    body, unpacked = bytearray(), _unpacker(request.headers.get("content-encoding", ""))
    start = asyncio.get_running_loop().time()
    received = 0
    try:
        async with asyncio.timeout_at(start + seconds) as limit:
            async for part in request.stream():
                received += len(part)
                limit.reschedule(start + seconds + received / _MIN_BYTES_PER_SECOND)
                for piece in unpacked(part):
                    body += piece
                    limits.check_body(len(body))
                    hold(len(piece))
                    if piece is not part:
                        await asyncio.sleep(0)
    except TimeoutError as cause:
        raise RequestTimeout(
            f"the body arrived too slowly: {received} bytes in {seconds:g} seconds; send it faster"
        ) from cause
    return bytes(body)


def _unpacker(encoding: str) -> Callable[[bytes], Iterator[bytes]]:
    """Turns the parts of a body into decoded pieces; pieces of a compressed body are at most one mebibyte each."""
    match encoding.strip().lower():
        case "" | "identity":
            return lambda part: iter((part,))
        case "gzip":
            return partial(_inflated, zlib.decompressobj(wbits=16 + zlib.MAX_WBITS))
    raise InvalidRequest(f"Content-Encoding is {encoding[:40]!r}: send the body uncompressed or as gzip")


def _inflated(state: Any, part: bytes) -> Iterator[bytes]:
    if not part and not state.eof:  # the end of the body
        raise InvalidRequest("the gzip body is incomplete: send all of it")
    while part and not state.eof:
        try:
            piece = state.decompress(part, _MAX_PIECE)
        except zlib.error as cause:
            raise InvalidRequest("the body is not gzip, although its Content-Encoding says so") from cause
        part = state.unconsumed_tail
        yield piece


async def parse_json(body: bytes) -> Any:
    """Raises ValueError, RecursionError or TooLarge."""
    # Parsing holds the GIL while it creates values, even in a thread, so their number is checked first.
    return _parse(body) if len(body) <= _SMALL else await asyncio.to_thread(_parse_large, body)


def _parse_large(body: bytes) -> Any:
    if _holds_more_values_than(MAX_VALUES, body):
        wrong = _WRONG_FIRST_ITEM.search(body)
        fault = f"{wrong[1].decode()}[0] is neither a string nor an object, and " if wrong else ""
        raise TooLarge(f"{fault}the body contains more than {MAX_VALUES} JSON values. Split the request")
    return _parse(body)


def _holds_more_values_than(limit: int, body: bytes) -> bool:
    """Counts separators and opening brackets outside of strings, in steps of a few milliseconds each."""
    without_escapes = body.replace(rb"\\", b"").replace(rb"\"", b"")
    if without_escapes.count(b'"') > 4 * limit:  # a key and a text, two quotes each
        return True
    outside = without_escapes.split(b'"')[::2]
    count = 0
    for part in outside:
        for at in range(0, len(part), _SMALL):  # in steps, so that other threads get the GIL in between
            piece = part[at : at + _SMALL]
            count += piece.count(b",") + piece.count(b"[") + piece.count(b"{")
            if count > limit:
                return True
    return False


def _parse(body: bytes) -> Any:
    """Strict JSON: Python's own parser also accepts NaN, and turns 1e999 into infinity."""
    return json.loads(body, parse_constant=_not_a_number, parse_float=_finite)


def _not_a_number(text: str) -> NoReturn:
    raise ValueError(f"{text:.40} is not a usable number")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _not_a_number(text)
