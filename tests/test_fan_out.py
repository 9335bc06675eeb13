"""Many questions at once: answers as they become ready, the first failure, and nothing left running."""

from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing

import pytest

from whyrank.fan_out import as_completed, in_thread


async def test_every_answer_comes_once() -> None:
    async def square(number: int) -> int:
        return number * number

    async with aclosing(as_completed(square, 20, 3)) as answers:
        assert sorted([answer async for answer in answers]) == [(n, n * n) for n in range(20)]


async def test_a_cancellation_inside_one_question_reaches_who_waits() -> None:
    """Something that the question awaits was cancelled, not the question itself: its own worker ends all the same."""

    async def ask(number: int) -> int:
        if number == 1:
            raise asyncio.CancelledError("the connection was closed")
        await asyncio.sleep(60)
        return number

    async with asyncio.timeout(5):
        with pytest.raises(asyncio.CancelledError, match="the connection was closed"):
            async with aclosing(as_completed(ask, 3, 3)) as answers:
                async for _ in answers:
                    pass


async def test_leaving_early_stops_what_is_still_being_asked() -> None:
    stopped: list[int] = []

    async def ask(number: int) -> int:
        if number:
            try:
                await asyncio.sleep(60)
            finally:
                stopped.append(number)
        return number

    async with aclosing(as_completed(ask, 4, 4)) as answers:
        assert await anext(answers) == (0, 0)
    assert sorted(stopped) == [1, 2, 3]


def test_who_leaves_a_thread_leaves_it_one_item_at_most() -> None:
    begun: list[int] = []
    goes_on, left = threading.Event(), threading.Event()

    def work(number: int) -> None:
        begun.append(number)
        goes_on.set()
        assert left.wait(5)

    async def leave() -> None:
        waiting = asyncio.create_task(in_thread(work, range(100)))
        await asyncio.to_thread(goes_on.wait, 5)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        left.set()

    asyncio.run(leave())  # which in the end waits for all threads, as a server does
    assert begun == [0]


async def test_what_a_thread_finds_comes_in_order() -> None:
    assert await in_thread(lambda number: number * number, range(5)) == [0, 1, 4, 9, 16]
