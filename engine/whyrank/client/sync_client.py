"""Client: AsyncClient for code that cannot await. Its event loop runs in a thread of its own, so it works in notebooks too."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack
from weakref import WeakSet

from whyrank.client.async_client import AsyncClient
from whyrank.errors import InvalidRequest, PermanentError
from whyrank.events import Event
from whyrank.loop_thread import LoopThread, result_of
from whyrank.ranking import Ranking
from whyrank.request import RerankOptions, RerankRequest
from whyrank.types import DocumentLike, RankedDocument

__all__ = ["Client"]

T = TypeVar("T")


class _Running(LoopThread):
    """An AsyncClient and the thread in which its event loop runs."""

    def __init__(self, client: AsyncClient) -> None:
        self.client, self.streams = client, set[AsyncGenerator[Event, None]]()
        super().__init__("whyrank-client")

    def close(self) -> None:
        try:
            self.begin(_ended(self.client, self.streams)).result()
        finally:
            self.stop()


class Client:
    """AsyncClient without await, with the same arguments. Safe to share between threads, whose calls are batched together,
    and across a fork: the child opens its own connections.

        with Client("http://localhost:8000") as client:
            ranking = client.rerank(query, documents)
    """

    def __init__(self, base_url: str | Sequence[str], api_key: str | None = None, **options: Any) -> None:
        self._make = partial(AsyncClient, base_url, api_key, **options)
        self._turn, self._closed = threading.Lock(), False
        self._running: _Running | None = _Running(self._make())
        _clients.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Wait for the calls in flight, then close the connections. Closing twice does nothing."""
        with self._turn:
            closed, self._closed = self._closed, True
        if not closed and self._running is not None:
            self._running.close()

    def rerank(self, query: str, documents: Iterable[DocumentLike], **options: Unpack[RerankOptions]) -> Ranking:
        return self._wait(lambda client: client.rerank(query, documents, **options))

    def begin(self, query: str, documents: Iterable[DocumentLike], **options: Unpack[RerankOptions]) -> Future[Ranking]:
        """`rerank` without waiting. asyncio.wrap_future makes the result awaitable in any event loop; cancel() ends the
        call."""
        return self._begun(lambda client: client.rerank(query, documents, **options))

    def score(
        self, query: str, documents: Iterable[DocumentLike], **options: Unpack[RerankOptions]
    ) -> tuple[RankedDocument, ...]:
        return self._wait(lambda client: client.score(query, documents, **options))

    def score_grid(
        self, queries: Sequence[str], documents: Sequence[DocumentLike], **options: Unpack[RerankOptions]
    ) -> list[tuple[RankedDocument, ...]]:
        return self._wait(lambda client: client.score_grid(queries, documents, **options))

    def rerank_many(self, requests: Iterable[RerankRequest | Mapping[str, Any]]) -> list[Ranking | PermanentError]:
        return self._wait(lambda client: client.rerank_many(requests))

    def stream(
        self, query: str, documents: Iterable[DocumentLike], **options: Unpack[RerankOptions]
    ) -> Iterator[Event]:
        with self._turn:
            running = self._open()
        events = running.client.stream(query, documents, **options)
        running.streams.add(events)
        try:
            while (event := self._wait(lambda _: anext(events, None), running)) is not None:
                yield event
        finally:
            running.streams.discard(events)
            if running is self._running and not self._closed:
                self._wait(lambda _: events.aclose(), running)

    def _begun(self, work: Callable[[AsyncClient], Awaitable[T]], begun_in: _Running | None = None) -> Future[T]:
        with self._turn:  # nothing is handed to a loop that is about to stop: it would wait forever
            running = self._open()
            if begun_in is not None and begun_in is not running:
                raise InvalidRequest("this stream was started before a fork, in the parent process: start a new one")
            return running.begin(work(running.client))

    def _wait(self, work: Callable[[AsyncClient], Awaitable[T]], begun_in: _Running | None = None) -> T:
        return result_of(self._begun(work, begun_in))

    def _open(self) -> _Running:
        """The running client, started if need be. Call with `_turn` held."""
        if self._closed:
            raise InvalidRequest("this client is closed: create a new one")
        if self._running is None:
            if self._make.keywords.get("transport") is not None:
                raise InvalidRequest(
                    "this client was made before a fork, with a transport whose connections are the parent's: "
                    "make a client with a transport of its own in each process"
                )
            self._running = _Running(self._make())
        return self._running

    def _forked(self) -> None:
        """Reset in the child, which has neither the loop's thread nor any thread that may have held the lock."""
        if self._running is not None:
            _of_the_parent.append(self._running)
        self._turn, self._running = threading.Lock(), None


_clients = WeakSet[Client]()
# Kept forever: closing or collecting them would touch sockets and an epoll that the parent uses.
_of_the_parent: list[_Running] = []


def _forked() -> None:
    for client in [*_clients]:
        client._forked()


if hasattr(os, "register_at_fork"):  # all platforms but Windows
    os.register_at_fork(after_in_child=_forked)


async def _ended(client: AsyncClient, streams: Collection[AsyncGenerator[Event, None]]) -> None:
    """Close the client; wait for all calls handed over before, and close streams that nobody closed."""
    await client.aclose()
    if left := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(left)
    for stream in [*streams]:
        await stream.aclose()
