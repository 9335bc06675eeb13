"""Request bodies: read at a pace and within a size, and made into JSON without holding up the event loop."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Callable
from typing import Any, NoReturn

from fastapi import Request

from whyrank.errors import RequestTimeout, TooLarge
from whyrank.serving.admission import Limits

__all__ = ["MAX_VALUES", "parse_json", "read_body"]

_MIN_BYTES_PER_SECOND = 16 << 10
# Below this a body is parsed where it is read: it takes less than handing it to a thread.
_SMALL = 64 << 10
# A thousand documents with two hundred values of metadata each.
MAX_VALUES = 250_000
_WRONG_FIRST_ITEM = re.compile(
    rb'"(documents|texts|queries|requests|rank_fields|text_[12])"\s{0,9}:\s{0,9}\[\s{0,9}[^\s"{\]]'
)


async def read_body(request: Request, limits: Limits, seconds: float, hold: Callable[[int], None]) -> bytes:
    """A body has `seconds` to arrive, and longer the more of it has come: a slow network is served, a silent caller is not.

    `hold` is called with the size of each part that arrives. Raises RequestTimeout, TooLarge or what `hold` raises."""
    body = bytearray()
    start = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout_at(start + seconds) as limit:
            async for part in request.stream():
                body += part
                limits.check_body(len(body))
                hold(len(part))
                limit.reschedule(start + seconds + len(body) / _MIN_BYTES_PER_SECOND)
    except TimeoutError as cause:
        raise RequestTimeout(
            f"the body did not arrive: {len(body)} bytes in {seconds:g} seconds and more; send it faster"
        ) from cause
    return bytes(body)


async def parse_json(body: bytes) -> Any:
    """Raises ValueError, RecursionError or TooLarge."""
    # Parsing holds the interpreter, in a thread as well, for as long as it makes values: so their number is looked at first.
    return _parse(body) if len(body) <= _SMALL else await asyncio.to_thread(_parse_large, body)


def _parse_large(body: bytes) -> Any:
    if _holds_more_values_than(MAX_VALUES, body):
        wrong = _WRONG_FIRST_ITEM.search(body)
        fault = f"{wrong[1].decode()}[0] is neither a string nor an object, and " if wrong else ""
        raise TooLarge(f"{fault}the body holds more than {MAX_VALUES} JSON values. Split the request")
    return _parse(body)


def _holds_more_values_than(limit: int, body: bytes) -> bool:
    """Counts what separates and opens values outside of strings, in steps that each take milliseconds."""
    without_escapes = body.replace(rb"\\", b"").replace(rb"\"", b"")
    if without_escapes.count(b'"') > 4 * limit:  # a key and a text, two quotes each
        return True
    outside = without_escapes.split(b'"')[::2]
    count = 0
    for part in outside:
        for at in range(0, len(part), _SMALL):  # in steps, for the same reason
            piece = part[at : at + _SMALL]
            count += piece.count(b",") + piece.count(b"[") + piece.count(b"{")
            if count > limit:
                return True
    return False


def _parse(body: bytes) -> Any:
    """JSON as its standard has it: Python's own reader also takes NaN, and 1e999 for infinite."""
    return json.loads(body, parse_constant=_not_a_number, parse_float=_finite)


def _not_a_number(text: str) -> NoReturn:
    raise ValueError(f"{text:.40} is no number that can be used")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _not_a_number(text)
