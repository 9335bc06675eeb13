"""Waiting for what happens in another task, thread or process, and measuring how long the event loop is blocked."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Self

import pytest

__all__ = ["LoopWatch", "until"]

_TICK_SECONDS = 0.001
# Timers of an idle event loop are late by up to two milliseconds; a thread that waits for a CPU is late by more.
_TIMER_SECONDS = 0.004


async def until(satisfied: Callable[[], object], seconds: float = 20.0) -> None:
    """Asks again and again, and fails if it does not become true in time."""
    end = time.monotonic() + seconds
    while True:
        answer = satisfied()
        if await answer if inspect.isawaitable(answer) else answer:
            return
        if time.monotonic() > end:
            pytest.fail(f"waited {seconds:g} seconds in vain")
        await asyncio.sleep(0.01)


class LoopWatch:
    """Measures the event loop while in `async with`, independently of what else the machine has to do.

    `longest_turn`: the longest time, in seconds of CPU, for which the loop was busy with one turn and served nobody else."""

    def __init__(self) -> None:
        self.longest_turn = 0.0
        self._waits: list[tuple[float, float]] = []

    async def __aenter__(self) -> Self:
        self._mark()
        self._watching = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._note()
        self._watching.cancel()

    def seconds_without_cpu(self, since: float) -> float:
        """Since this moment of time.perf_counter(): how long the loop was late although its thread was not computing."""
        return sum(seconds for ended, seconds in self._waits if ended > since)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            self._note()

    def _mark(self) -> None:
        self._began, self._cpu = time.perf_counter(), time.thread_time()

    def _note(self) -> None:
        now, cpu = time.perf_counter(), time.thread_time() - self._cpu
        self.longest_turn = max(self.longest_turn, cpu)
        late = now - self._began - _TICK_SECONDS - cpu
        if late > _TIMER_SECONDS:
            self._waits.append((now, late))
        self._mark()
