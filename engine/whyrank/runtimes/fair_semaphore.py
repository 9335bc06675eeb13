"""A semaphore that shares its slots fairly among calls. It limits how many texts are generated as evidence concurrently."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["FairSemaphore"]


class FairSemaphore:
    """The next free slot goes to the waiting call that holds the fewest. A large call may take all slots while it is alone; a
    small one that comes later waits only for one slot to become free, not for the large one's whole queue."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = count
        self._held = Counter[object]()
        self._waiting: dict[object, deque[tuple[asyncio.Future[None], int]]] = {}

    @asynccontextmanager
    async def place(self, call: object, size: int = 1) -> AsyncIterator[None]:
        """Hold `size` slots, or all where there are fewer. `call`: any object, the same for all slots of one call."""
        turn, size = asyncio.get_running_loop().create_future(), min(size, self.count)
        self._waiting.setdefault(call, deque()).append((turn, size))
        self._grant()
        try:
            await turn
            yield
        finally:
            self._leave(call, turn, size)

    def _leave(self, call: object, turn: asyncio.Future[None], size: int) -> None:
        if not turn.cancelled():  # cancelled while waiting: there is no slot to give back
            self._free += size
            self._held[call] -= size
            if not self._held[call]:
                del self._held[call]
        self._grant()

    def _grant(self) -> None:
        while self._free and self._waiting:
            # Among calls that hold equally many slots, the one that has waited longest.
            call = min(self._waiting, key=self._held.__getitem__)
            turn, size = self._waiting[call][0]
            if size > self._free and not turn.done():
                return  # others wait, too: otherwise many small ones would keep a large one out
            self._waiting[call].popleft()
            if not self._waiting[call]:
                del self._waiting[call]
            if not turn.done():
                turn.set_result(None)
                self._free -= size
                self._held[call] += size
