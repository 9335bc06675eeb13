"""Run many coroutines with bounded concurrency, yield results as they come, and leave nothing running afterwards."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Iterator
from typing import Any, TypeVar

__all__ = ["as_completed", "fan_out", "in_thread", "map_ordered"]

R = TypeVar("R")
T = TypeVar("T")


async def fan_out(
    work: Callable[[int, Callable[[T], None]], Awaitable[None]], count: int, max_concurrency: int
) -> AsyncGenerator[tuple[int, T], None]:
    """Run `work(index, emit)` for 0..count-1, at most `max_concurrency` at a time; yield (index, item) for each item emitted.

    The first exception ends it. Ending early, by closing or cancellation, cancels the remaining work and waits until it has
    stopped.
    """
    indexes = iter(range(count))
    emitted: asyncio.Queue[tuple[int, T] | BaseException | None] = asyncio.Queue()

    async def run() -> None:
        for index in indexes:
            try:
                await work(index, lambda item, index=index: emitted.put_nowait((index, item)))  # type: ignore[misc]
                emitted.put_nowait(None)
            except BaseException as failure:
                # A CancelledError from inside `work` ends this worker too, and the consumer must learn of it.
                emitted.put_nowait(failure)
                if not isinstance(failure, Exception):
                    raise

    workers = [asyncio.create_task(run()) for _ in range(min(count, max_concurrency))]
    left = count
    try:
        while left:
            item = await emitted.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


def as_completed(
    call: Callable[[int], Awaitable[T]], count: int, max_concurrency: int
) -> AsyncGenerator[tuple[int, T], None]:
    """`fan_out` where each index has exactly one result."""

    async def work(index: int, emit: Callable[[T], None]) -> None:
        emit(await call(index))

    return fan_out(work, count, max_concurrency)


async def map_ordered(work: Iterator[Coroutine[Any, Any, T]], max_concurrency: int) -> AsyncGenerator[T, None]:
    """Results in the order of `work`. At most `max_concurrency` coroutines run ahead; closing the generator cancels them."""
    ahead: deque[asyncio.Task[T]] = deque()
    try:
        for one in work:
            ahead.append(asyncio.create_task(one))
            if len(ahead) == max_concurrency:
                yield await ahead[0]
                ahead.popleft()
        while ahead:
            yield await ahead[0]
            ahead.popleft()
    finally:
        for task in ahead:
            task.cancel()
        await asyncio.gather(*ahead, return_exceptions=True)


async def in_thread(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """`function` of each item, one after another, off the event loop. An item is a job of its own: a thread goes on when nobody
    waits for it any more, and what is left to do in threads delays the server's end."""
    return [await asyncio.to_thread(function, item) for item in items]
