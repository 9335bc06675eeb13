"""The Protocol that reranker.py speaks, and the fan-out under it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from whyrank.scoring import LabelRead
from whyrank.tokens import Ids
from whyrank.types import DocumentError, Usage

__all__ = ["Answer", "Runtime", "as_answered"]

Answer = tuple[int, LabelRead | DocumentError]
"""A prompt's position in the call, and what came of it."""

T = TypeVar("T")


class Runtime(Protocol):
    """One running engine. Calls may overlap; each raises EngineDead at once when the engine is gone."""

    async def prime(self, prompts: Sequence[Ids], frame: Ids) -> Usage:
        """Put the prompts' shared prefixes into the cache where that needs a request of its own; what that cost.

        `frame` is the prefix that prompts of every query share."""
        ...

    def read(self, prompts: Sequence[Ids]) -> AsyncGenerator[Answer, None]:
        """Answers in the order in which they come. Closing the generator frees the work that is left."""
        ...

    def facts(self) -> dict[str, str | int]:
        """What `whyrank doctor` shows: engine, dtype, block size and the like."""
        ...

    async def aclose(self) -> None: ...


async def as_answered(
    ask: Callable[[int], Awaitable[T]], count: int, at_once: int
) -> AsyncGenerator[tuple[int, T], None]:
    """Ask for 0..count-1, at most `at_once` at a time, and yield (index, answer) as they come.

    The first exception ends it. Leaving early, by closing or by cancellation, cancels what is still being asked and waits
    until it has stopped.
    """
    waiting = iter(range(count))
    answered: asyncio.Queue[tuple[int, T] | Exception] = asyncio.Queue()

    async def work() -> None:
        for index in waiting:
            try:
                answered.put_nowait((index, await ask(index)))
            except Exception as failure:
                answered.put_nowait(failure)

    workers = [asyncio.create_task(work()) for _ in range(min(count, at_once))]
    try:
        for _ in range(count):
            answer = await answered.get()
            if isinstance(answer, Exception):
                raise answer
            yield answer
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
