"""Client: AsyncClient for code that cannot await. Its event loop runs in a thread, so it works in notebooks, too."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from whyrank.client.async_client import AsyncClient
from whyrank.errors import InvalidRequest, PermanentError
from whyrank.events import Event
from whyrank.ranking import Ranking
from whyrank.request import RerankOptions, RerankRequest
from whyrank.types import DocumentLike, RankedDocument

__all__ = ["Client"]

T = TypeVar("T")


class Client:
    """Takes what AsyncClient takes. Safe to share between threads, whose calls then travel together.

    with Client("http://localhost:8000") as client:
        ranking = client.rerank(query, documents)
    """

    def __init__(self, base_url: str | Sequence[str], api_key: str | None = None, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="whyrank-client", daemon=True)
        self._thread.start()
        self._turn, self._closed = threading.Lock(), False
        self._streams = set[AsyncGenerator[Event, None]]()
        try:
            self._client = self._wait(_made(base_url, api_key, options))
        except BaseException:
            self._stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Wait for what is under way. A second time does nothing."""
        with self._turn:
            closed, self._closed = self._closed, True
        if not closed:
            try:
                asyncio.run_coroutine_threadsafe(_ended(self._client, self._streams), self._loop).result()
            finally:
                self._stop()

    def rerank(self, query: str, documents: Iterable[DocumentLike], **options: Unpack[RerankOptions]) -> Ranking:
        return self._wait(self._client.rerank(query, documents, **options))

    def begin(self, query: str, documents: Iterable[DocumentLike], **options: Unpack[RerankOptions]) -> Future[Ranking]:
        """`rerank`, not waited for. asyncio.wrap_future makes it awaitable, in any event loop; cancelling frees the work."""
        return self._begun(self._client.rerank(query, documents, **options))

    def score(
        self, query: str, documents: Iterable[DocumentLike], **options: Unpack[RerankOptions]
    ) -> tuple[RankedDocument, ...]:
        return self._wait(self._client.score(query, documents, **options))

    def score_grid(
        self, queries: Sequence[str], documents: Sequence[DocumentLike], **options: Unpack[RerankOptions]
    ) -> list[tuple[RankedDocument, ...]]:
        return self._wait(self._client.score_grid(queries, documents, **options))

    def rerank_many(self, requests: Iterable[RerankRequest | Mapping[str, Any]]) -> list[Ranking | PermanentError]:
        return self._wait(self._client.rerank_many(requests))

    def stream(
        self, query: str, documents: Iterable[DocumentLike], **options: Unpack[RerankOptions]
    ) -> Iterator[Event]:
        events = self._client.stream(query, documents, **options)
        self._streams.add(events)
        try:
            while (event := self._wait(anext(events, None))) is not None:
                yield event
        finally:
            self._streams.discard(events)
            if not self._closed:
                self._wait(events.aclose())

    def _begun(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        with self._turn:  # nothing is handed to a loop that is about to stop, where it would wait for ever
            if self._closed:
                work.close()
                raise InvalidRequest("this client is closed: make a new one")
            return asyncio.run_coroutine_threadsafe(_awaited(work), self._loop)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        future = self._begun(work)
        try:
            result: T = future.result()
            return result
        except BaseException:
            future.cancel()  # Ctrl-C: the call ends on the other side, too
            raise

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _made(base_url: str | Sequence[str], api_key: str | None, options: dict[str, Any]) -> AsyncClient:
    return AsyncClient(base_url, api_key, **options)


async def _ended(client: AsyncClient, streams: Collection[AsyncGenerator[Event, None]]) -> None:
    """Whatever was handed over before, calls as well as streams that nobody closed, is over afterwards."""
    await client.aclose()
    if left := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(left)
    for stream in [*streams]:
        await stream.aclose()


async def _awaited(work: Any) -> Any:
    return await work  # run_coroutine_threadsafe takes coroutines alone, and anext() gives none
