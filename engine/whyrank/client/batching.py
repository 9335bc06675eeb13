"""Calls made at about the same time travel in one request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

from whyrank.client.pairs import PairKey
from whyrank.requests import RerankRequest
from whyrank.types import RankedDocument, Usage

__all__ = ["Ask", "Batcher"]


@dataclass(eq=False, slots=True)
class Ask:
    """The pairs that one call brought and nobody knew. `wanted`: how many calls wait for one of them."""

    request: RerankRequest
    keys: Sequence[PairKey]
    rows: Sequence[asyncio.Future[RankedDocument]]
    wanted: int = 0
    usage: Usage = field(default_factory=Usage)


class Batcher:
    """While nothing is under way, what is asked goes at once, with whatever else was asked in the same turn of the event loop;
    otherwise it waits `window` seconds for company."""

    def __init__(self, send: Callable[[Sequence[Ask]], Awaitable[None]], window: float, most_documents: int) -> None:
        self._send, self._window, self._most = send, window, most_documents
        self._waiting: list[Ask] = []
        self._timer: asyncio.Handle | None = None
        self._sending = set[asyncio.Task[None]]()

    def add(self, ask: Ask) -> None:
        self._waiting.append(ask)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            later = bool(self._sending) and self._window > 0
            self._timer = loop.call_later(self._window, self._flush) if later else loop.call_soon(self._flush)

    async def finish(self) -> None:
        """Wait for what is under way."""
        if self._timer is not None:
            self._flush()
        while self._sending:
            await asyncio.wait(self._sending)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        waiting, self._waiting = self._waiting, []
        for ask in waiting:
            if not ask.wanted:  # whoever asked has gone
                for row in ask.rows:
                    row.cancel()
        for batch in self._batches([ask for ask in waiting if ask.wanted]):
            task = asyncio.ensure_future(self._send(batch))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    def _batches(self, asks: Sequence[Ask]) -> Iterator[list[Ask]]:
        batch: list[Ask] = []
        count = 0
        # Asks of the same query share a prefix in the server's cache: side by side.
        for ask in sorted(asks, key=lambda ask: ask.request.query):
            if batch and count + len(ask.keys) > self._most:
                yield batch
                batch, count = [], 0
            batch.append(ask)
            count += len(ask.keys)
        if batch:
            yield batch
