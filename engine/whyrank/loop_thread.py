"""An event loop in a thread of its own, for code that cannot await. It also works inside another running loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable
from concurrent.futures import Future
from typing import TypeVar

__all__ = ["LoopThread", "result_of"]

T = TypeVar("T")


class LoopThread:
    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def begin(self, work: Awaitable[T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(_awaited(work), self._loop)

    def wait(self, work: Awaitable[T]) -> T:
        return result_of(self.begin(work))

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def result_of(future: Future[T]) -> T:
    try:
        return future.result()
    except BaseException:
        future.cancel()  # Ctrl-C: cancel the work in the event loop, too
        raise


async def _awaited(work: Awaitable[T]) -> T:
    return await work  # run_coroutine_threadsafe accepts only coroutines, and anext() returns none
