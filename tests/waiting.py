"""Waiting for what happens in another task, thread or process."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable

import pytest

__all__ = ["until"]


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
