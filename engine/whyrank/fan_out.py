"""Many questions at once, each answer as soon as it is there, and nothing left running afterwards."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

__all__ = ["as_answered", "fan_out", "in_order"]

T = TypeVar("T")


async def fan_out(
    ask: Callable[[int, Callable[[T], None]], Awaitable[None]], count: int, at_once: int
) -> AsyncGenerator[tuple[int, T], None]:
    """Ask for 0..count-1, at most `at_once` at a time, and yield (index, item) as `ask` hands items to its second argument.

    The first exception ends it. Leaving early, by closing or by cancellation, cancels what is still being asked and waits
    until it has stopped.
    """
    waiting = iter(range(count))
    told: asyncio.Queue[tuple[int, T] | BaseException | None] = asyncio.Queue()

    async def work() -> None:
        for index in waiting:
            try:
                await ask(index, lambda item, index=index: told.put_nowait((index, item)))  # type: ignore[misc]
                told.put_nowait(None)
            except BaseException as failure:
                # A CancelledError, too: from inside `ask` it ends this worker, and whoever waits for it must hear of it.
                told.put_nowait(failure)
                if not isinstance(failure, Exception):
                    raise

    workers = [asyncio.create_task(work()) for _ in range(min(count, at_once))]
    left = count
    try:
        while left:
            news = await told.get()
            if isinstance(news, BaseException):
                raise news
            if news is None:
                left -= 1
            else:
                yield news
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


def as_answered(ask: Callable[[int], Awaitable[T]], count: int, at_once: int) -> AsyncGenerator[tuple[int, T], None]:
    """`fan_out` where each index has exactly one answer."""

    async def ask_once(index: int, tell: Callable[[T], None]) -> None:
        tell(await ask(index))

    return fan_out(ask_once, count, at_once)


async def in_order(work: Iterator[Coroutine[Any, Any, T]], at_once: int) -> AsyncGenerator[T, None]:
    """Answers in the order of `work`, of which `at_once` are taken ahead and no more. Closed early, it cancels those."""
    ahead: deque[asyncio.Task[T]] = deque()
    try:
        for one in work:
            ahead.append(asyncio.create_task(one))
            if len(ahead) == at_once:
                yield await ahead[0]
                ahead.popleft()
        while ahead:
            yield await ahead[0]
            ahead.popleft()
    finally:
        for task in ahead:
            task.cancel()
        await asyncio.gather(*ahead, return_exceptions=True)
