"""Many questions at once: answers as they become ready, the first failure, and nothing left running."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from whyrank.fan_out import as_completed


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
