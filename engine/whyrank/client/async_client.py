"""AsyncClient: the methods of the in-process Reranker, answered by a server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import httpx

from whyrank.base import BaseReranker
from whyrank.calibration import read_calibration
from whyrank.client.calibrated import CalibratedEvents, calibrated
from whyrank.client.decode import decoded
from whyrank.client.encode import encode_documents, encode_request
from whyrank.client.retry import RetryPolicy
from whyrank.client.scores import PairScorer
from whyrank.client.split import rerank_in_parts, split
from whyrank.client.transport import PendingRequest, Transport
from whyrank.errors import InvalidRequest, TooLarge
from whyrank.events import Event
from whyrank.ranking import Ranking
from whyrank.request import RerankRequest
from whyrank.wire.responses import event_from_dict, ranking_from_dict

__all__ = ["AsyncClient"]

T = TypeVar("T")

# The server answers at its deadline; its response needs a little longer to arrive.
_WAY_BACK_SECONDS = 1.0


class AsyncClient(BaseReranker):
    """The methods and types of Reranker, over HTTP.

        async with AsyncClient("http://localhost:8000", api_key="...") as client:
            ranking = await client.rerank("boiling point of water", ["Water boils at 100 °C.", "Everest is high."])

    Scores requested at about the same time, within `window_ms`, share one HTTP request. A (query, document) pair that is
    already in flight, or among the last `remembered_pairs`, is not sent again. With several URLs, the same query goes to the
    same server as long as that is healthy. Retryable failures are retried within `timeout` seconds or the call's own
    deadline_ms. More documents than the server accepts are sent in parts, except by `stream`.

    The client belongs to the event loop of its first call; `Client` works from every thread and loop.

    `model`: which of the server's models answers, such as the name of a LoRA adapter. `calibration`: a file written by
    `whyrank calibrate`, for a server that was started without one or with another.
    """

    # No limit needed here: calls wait in the batcher and for a slot in the transport.
    _max_concurrency = 1024

    def __init__(
        self,
        base_url: str | Sequence[str],
        api_key: str | None = None,
        *,
        model: str | None = None,
        timeout: float = 60.0,
        window_ms: float = 2.0,
        remembered_pairs: int = 50_000,
        retry: RetryPolicy | None = None,
        calibration: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        urls = [base_url] if isinstance(base_url, str) else list(base_url)
        self._transport = Transport(urls, api_key, timeout, retry or RetryPolicy(), transport)
        self._scorer = PairScorer(self._transport, window_ms / 1000, remembered_pairs, model)
        self._model = model
        self._timeout = timeout
        self._calibration = read_calibration(Path(calibration)) if calibration else None
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Wait for the calls in flight, then close the connections. Streams that are still open are cut off."""
        self._require_own_loop()
        self._closed = True
        try:
            await self._idle.wait()
            await self._scorer.finish()
        finally:
            await self._transport.aclose()

    @contextmanager
    def _call(self) -> Iterator[None]:
        """A call that `aclose` waits for."""
        self._require_open()
        self._calls += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._calls -= 1
            if not self._calls:
                self._idle.set()

    def _require_open(self) -> None:
        if self._closed:
            raise InvalidRequest("this client is closed: create a new one")
        self._require_own_loop()

    def _require_own_loop(self) -> None:
        """Raise unless this is the event loop of the first call: connections and waiting tasks are bound to it."""
        running = asyncio.get_running_loop()
        # setdefault is atomic: of two threads that call first at the same time, one loses.
        if vars(self).setdefault("_own_loop", running) is not running:
            raise InvalidRequest(
                "this AsyncClient belongs to another event loop: make one per loop, or use Client, which works from all threads"
            )

    async def _map(self, work: Callable[[int], Awaitable[T]], count: int) -> list[T]:
        self._require_open()  # raise once here, rather than return the error in place of every answer
        return await super()._map(work, count)

    async def events(self, request: RerankRequest, live: bool = False) -> AsyncGenerator[Event, None]:
        self._require_open()
        documents, calibrating = encode_documents(request), CalibratedEvents(self._calibration)
        pending = self._pending_request("/v1/rerank/stream", request, documents, self._end(request))
        try:
            async with aclosing(self._transport.events(pending)) as events:
                async for name, data in events:
                    received = decoded(event_from_dict, name, data, request.documents)
                    for event in calibrating.after(received):
                        yield event
        except TooLarge as error:
            if len(split(documents)) > 1 and request.method == "pointwise":
                error.args = (
                    f"{error}. A stream is always one request; `rerank` splits large calls, evidence included",
                )
            raise

    async def _answer(self, request: RerankRequest) -> Ranking:
        with self._call():
            return calibrated(await self._ranked(request, self._end(request)), self._calibration)

    def _end(self, request: RerankRequest) -> float:
        deadline_ms = request.deadline_ms
        seconds = self._timeout if deadline_ms is None else min(self._timeout, deadline_ms / 1000 + _WAY_BACK_SECONDS)
        return time.monotonic() + seconds

    async def _ranked(self, request: RerankRequest, end: float) -> Ranking:
        if request.mode == "score" and request.method == "pointwise" and request.deadline_ms is None:
            return await self._scorer.score(request, end)
        # Evidence takes long anyway, and a deadline leaves no time to lose: neither waits to be batched.
        documents = encode_documents(request)
        try:
            return await self._rerank_at_once(request, documents, end)
        except TooLarge:
            if len(parts := split(documents)) == 1 or request.method == "listwise":
                raise  # an order of all documents cannot be put together from those of parts

        def send(part: RerankRequest, part_documents: Sequence[bytes]) -> Awaitable[Ranking]:
            return self._rerank_at_once(part, part_documents, end)

        return await rerank_in_parts(request, documents, parts, send)

    async def _rerank_at_once(self, request: RerankRequest, documents: Sequence[bytes], end: float) -> Ranking:
        body, _ = await self._transport.post(self._pending_request("/v1/rerank", request, documents, end))
        return decoded(ranking_from_dict, body, request.documents)

    def _pending_request(
        self, path: str, request: RerankRequest, documents: Sequence[bytes], end: float
    ) -> PendingRequest:
        """One request, sent on its own. Its deadline is what remains of the caller's at the time of sending."""
        deadline_ms = request.deadline_ms

        def content(left: float) -> bytes:
            if deadline_ms is None:
                return encode_request(request, documents, self._model)
            left_ms = max(1.0, 1000 * (left - _WAY_BACK_SECONDS))
            return encode_request(replace(request, deadline_ms=min(deadline_ms, left_ms)), documents, self._model)

        return PendingRequest(path, content, request.query, end)
