"""Combines calls made at about the same time into one request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from whyrank.client.cache import PairKey
from whyrank.client.split import MAX_BYTES, MAX_CONCURRENT_PARTS, MAX_DOCUMENTS
from whyrank.errors import WhyrankError
from whyrank.types import RankedDocument, Usage

__all__ = ["Batcher", "PendingBatch"]


@dataclass(eq=False, slots=True)
class PendingBatch:
    """The pairs of one call that nobody else has requested yet. `wanted`: how many calls wait for one of them."""

    query: str
    keys: Sequence[PairKey]
    content: bytes
    """One request of a batch request, as JSON."""
    end: float
    """When the last caller stops waiting."""
    server: str = ""
    """The preferred server: pairs for different servers never share a request."""
    wanted: int = 0
    done: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    rows: dict[PairKey, RankedDocument] = field(default_factory=dict)
    error: WhyrankError | None = None
    """Why rows are missing, set when the batch is done."""
    usage: Usage = field(default_factory=Usage)
    identity: str | None = None
    served: tuple[str, str] = ("", "")
    """Model and prompt."""


class Batcher:
    """Sends pending batches together. While no request is in flight, they are sent at once, with whatever else was added in
    the same turn of the event loop; otherwise they wait `window` seconds for more, and for one of `max_concurrency` slots.
    `send` must complete each batch and never raise."""

    def __init__(
        self,
        send: Callable[[Sequence[PendingBatch]], Awaitable[None]],
        window: float,
        max_documents: int = MAX_DOCUMENTS,
        max_bytes: int = MAX_BYTES,
        max_concurrency: int = MAX_CONCURRENT_PARTS,
    ) -> None:
        self._send, self._window = send, window
        self._max_documents, self._max_bytes, self._max_concurrency = max_documents, max_bytes, max_concurrency
        self._waiting: list[PendingBatch] = []
        self._timer: asyncio.Handle | None = None
        self._sending: dict[asyncio.Task[None], Sequence[PendingBatch]] = {}

    def add(self, pending: PendingBatch) -> None:
        self._waiting.append(pending)
        if self._timer is None and len(self._sending) < self._max_concurrency:
            loop = asyncio.get_running_loop()
            later = bool(self._sending) and self._window > 0
            self._timer = loop.call_later(self._window, self._flush) if later else loop.call_soon(self._flush)

    def leave(self, pending: PendingBatch) -> None:
        """Nobody wants this batch any more. A request none of whose batches is wanted is cancelled."""
        for task, batch in self._sending.items():
            if pending in batch:
                if not any(other.wanted for other in batch):
                    task.cancel()
                return

    async def finish(self) -> None:
        """Wait for the batches in flight."""
        while self._waiting or self._sending:
            self._flush()
            if self._sending:
                await asyncio.wait(self._sending)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        batches = [*self._batches(pending for pending in self._waiting if pending.wanted)]
        places = max(0, self._max_concurrency - len(self._sending))
        # Batches that wait for a slot can still be joined by later ones.
        self._waiting = [pending for batch in batches[places:] for pending in batch]
        for batch in batches[:places]:
            task = asyncio.ensure_future(self._send(batch))
            self._sending[task] = batch
            task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        del self._sending[task]
        if self._waiting and self._timer is None:
            self._flush()

    def _batches(self, pendings: Iterable[PendingBatch]) -> Iterator[list[PendingBatch]]:
        # Requests with the same query share a prefix in the server's cache: keep them adjacent, queries in order of arrival.
        groups: dict[str, dict[str, list[PendingBatch]]] = {}
        for pending in pendings:
            groups.setdefault(pending.server, {}).setdefault(pending.query, []).append(pending)
        for queries in groups.values():
            batch: list[PendingBatch] = []
            documents = size = 0
            for pending in (pending for group in queries.values() for pending in group):
                documents += len(pending.keys)
                size += len(pending.content)
                if batch and (documents > self._max_documents or size > self._max_bytes):
                    yield batch
                    batch, documents, size = [], len(pending.keys), len(pending.content)
                batch.append(pending)
            if batch:
                yield batch
