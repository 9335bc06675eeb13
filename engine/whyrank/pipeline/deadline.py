"""A deadline for a whole call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import aclosing, asynccontextmanager
from typing import TypeVar

__all__ = ["Deadline"]

T = TypeVar("T")


def _kept_for_the_answer(seconds: float) -> float:
    """Time to stop the engine's work and to assemble the response."""
    return max(0.08 * seconds, min(0.03, seconds / 2))


class Deadline:
    """`milliseconds` from the start of the call, or never. `end` brings it forward."""

    def __init__(self, milliseconds: float | None) -> None:
        self._at = None
        self._waits = set[asyncio.Timeout]()
        self.aborted = False
        if milliseconds is not None:
            seconds = milliseconds / 1000
            self._at = asyncio.get_running_loop().time() + seconds - _kept_for_the_answer(seconds)

    def end(self) -> None:
        """Make it now: the call returns what it has."""
        self._at = asyncio.get_running_loop().time()
        self.aborted = True
        for wait in self._waits:
            wait.reschedule(self._at)

    @asynccontextmanager
    async def _limit(self) -> AsyncIterator[asyncio.Timeout]:
        async with asyncio.timeout_at(self._at) as limit:
            self._waits.add(limit)
            try:
                yield limit
            finally:
                self._waits.discard(limit)

    async def wait(self, awaited: Awaitable[T]) -> T | None:
        """The result of `awaited`, or None if the deadline comes first; then `awaited` is cancelled."""
        limit: asyncio.Timeout | None = None
        try:
            async with self._limit() as limit:
                return await awaited
        except TimeoutError:
            if not _ran_out(limit):
                raise
            return None

    async def during(self, items: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
        """The items that arrive before the deadline. The generator is closed then, or when the caller stops early."""
        async with aclosing(items):
            while True:
                limit: asyncio.Timeout | None = None
                try:
                    # Around this wait alone: while we are suspended in `yield`, the task is our caller's.
                    async with self._limit() as limit:
                        item = await anext(items)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    if not _ran_out(limit):
                        raise
                    return
                yield item


def _ran_out(limit: asyncio.Timeout | None) -> bool:
    """Whether a TimeoutError is ours. The clock cannot tell: uvloop's timers fire up to a millisecond early."""
    return limit is not None and limit.expired()
