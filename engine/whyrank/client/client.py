"""AsyncClient: the verbs of the in-process Reranker, answered by a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from copy import copy
from dataclasses import asdict, replace
from types import TracebackType
from typing import Any, Self

import httpx

from whyrank.client.answers import error_of, event_of, ranking_of
from whyrank.client.batching import Ask, Batcher
from whyrank.client.exchange import Exchange
from whyrank.client.pairs import PairBook, PairKey, pair_key
from whyrank.client.policy import RetryPolicy
from whyrank.errors import InvalidRequest, Unreachable, WhyrankError
from whyrank.events import Event
from whyrank.ranking import Ranking
from whyrank.requests import RerankRequest
from whyrank.scoring import ranked, shown
from whyrank.types import Document, DocumentError, RankedDocument, Usage
from whyrank.verbs import Verbs

__all__ = ["AsyncClient"]

# Documents of one HTTP request. Answers come when all of them are scored, so not too many.
_DOCUMENTS_AT_ONCE = 256
# A server that was heard so many seconds ago still has the model that it had.
_TRUSTED_SECONDS = 1.0


class AsyncClient(Verbs):
    """The verbs and types of Reranker, over HTTP.

        async with AsyncClient("http://localhost:8000", api_key="...") as client:
            ranking = await client.rerank("boiling point of water", ["Water boils at 100 °C.", "Everest is high."])

    Scores that are asked for at about the same time travel together, within `window_ms`; the same (query, document) pair is
    asked once while it is under way or among the last `remembered_pairs`. Several URLs: the same query goes to the same server
    while that is well. What can be retried is, within `timeout` seconds or the call's own deadline_ms.
    """

    # Not a limit of ours: calls wait in the batcher and for a place on the wire.
    _at_once = 1024

    def __init__(
        self,
        base_url: str | Sequence[str],
        api_key: str | None = None,
        *,
        timeout: float = 60.0,
        window_ms: float = 2.0,
        remembered_pairs: int = 50_000,
        retry: RetryPolicy | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        urls = [base_url] if isinstance(base_url, str) else list(base_url)
        self._exchange = Exchange(urls, api_key, timeout, retry or RetryPolicy(), transport)
        self._batcher = Batcher(self._send, window_ms / 1000, _DOCUMENTS_AT_ONCE)
        self._pairs = PairBook(remembered_pairs)
        self._asks: dict[asyncio.Future[RankedDocument], Ask] = {}
        self._served = ("", "")
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Wait for what is under way, then close the connections."""
        self._closed = True
        await self._batcher.finish()
        await self._exchange.aclose()

    async def events(self, request: RerankRequest, live: bool = False) -> AsyncGenerator[Event, None]:
        self._require_open()
        events = self._exchange.events("/v1/rerank/stream", _body(request), request.query)
        async with aclosing(events):
            async for name, data in events:
                yield _understood(lambda name=name, data=data: event_of(name, data, request.documents))

    async def _answer(self, request: RerankRequest) -> Ranking:
        self._require_open()
        if request.mode == "score" and request.deadline_ms is None:
            return await self._scored(request)
        # Evidence takes its time and a deadline has none to lose: neither waits for company.
        body, _ = await self._exchange.post("/v1/rerank", _body(request), request.query)
        ranking: Ranking = _understood(lambda: ranking_of(body, request.documents))
        return ranking

    async def _scored(self, request: RerankRequest) -> Ranking:
        identity = self._exchange.preferred(request.query).identity
        keys, known = self._looked_up(identity, request)
        if len(known) == len(set(keys)):  # an answer from memory alone: is the server still the one that said so?
            identity = await self._exchange.identity(request.query, _TRUSTED_SECONDS)
            keys, known = self._looked_up(identity, request)
        own = self._ask(request, {key: i for i, key in enumerate(keys) if key not in known})
        rows = {key: self._pairs.under_way[key] for key in keys if key not in known}
        await self._wait(rows.values())
        errors = [error for row in rows.values() if (error := row.exception())]
        if errors and len(errors) == len(rows) and not known:
            raise copy(errors[0])  # many may wait for the same row, and each raises an exception of its own
        told = known | {key: row.result() for key, row in rows.items() if row.exception() is None}
        pairs = enumerate(zip(keys, request.documents, strict=True))
        results = [_row(i, document, told.get(key), errors) for i, (key, document) in pairs]
        usage = sum((ask.usage for ask in own), Usage())
        return Ranking(shown(ranked(results), request.min_score, request.top_n), usage, *self._served)

    def _looked_up(
        self, identity: str | None, request: RerankRequest
    ) -> tuple[list[PairKey], dict[PairKey, RankedDocument]]:
        keys = [pair_key(identity, request, document) for document in request.documents]
        return keys, {key: row for key in keys if (row := self._pairs.get(key)) is not None}

    def _ask(self, request: RerankRequest, unknown: dict[PairKey, int]) -> list[Ask]:
        """Ask for the pairs that are not under way already; the new asks."""
        new = [(key, index) for key, index in unknown.items() if key not in self._pairs.under_way]
        asks = []
        for start in range(0, len(new), _DOCUMENTS_AT_ONCE):
            part = new[start : start + _DOCUMENTS_AT_ONCE]
            loop = asyncio.get_running_loop()
            documents = tuple(request.documents[index] for _, index in part)
            ask = Ask(
                replace(request, documents=documents, top_n=None, min_score=None),
                [key for key, _ in part],
                [loop.create_future() for _ in part],
            )
            for key, row in zip(ask.keys, ask.rows, strict=True):
                self._pairs.under_way[key] = row
                self._asks[row] = ask
                row.add_done_callback(lambda row, key=key: self._forget(row, key))  # type: ignore[misc]
            asks.append(ask)
            self._batcher.add(ask)
        return asks

    def _forget(self, row: asyncio.Future[RankedDocument], key: PairKey) -> None:
        self._asks.pop(row, None)
        self._pairs.under_way.pop(key, None)
        if not row.cancelled():
            row.exception()  # whoever waited may have gone; that is no news for the log

    async def _wait(self, rows: Any) -> None:
        """Until all are there. Whoever leaves earlier takes nothing from others who wait for the same rows."""
        rows = set(rows)
        if not rows:
            return
        asks = {id(ask): ask for row in rows if (ask := self._asks.get(row)) is not None}
        for ask in asks.values():
            ask.wanted += 1
        try:
            await asyncio.wait(rows)
        finally:
            for ask in asks.values():
                ask.wanted -= 1

    async def _send(self, asks: Sequence[Ask]) -> None:
        """One request for several asks. Whatever happens, every row gets its answer or its error."""
        try:
            body = {"requests": [_body(ask.request) for ask in asks]}
            answer, identity = await self._exchange.post("/v1/rerank/batch", body, asks[0].request.query)
            answers = _understood(lambda: [*zip(asks, answer["answers"], strict=True)])
        except WhyrankError as error:
            for ask in asks:
                _fail(ask, error)
            return
        except BaseException:
            for ask in asks:
                _fail(ask, Unreachable("the client was closed before the answer came"))
            raise
        for ask, told in answers:
            self._settle(ask, told, identity)

    def _settle(self, ask: Ask, told: Any, identity: str | None) -> None:
        try:
            if "error" in told:
                raise error_of(400, told, None, None)
            ranking = _understood(lambda: ranking_of(told, ask.request.documents))
        except WhyrankError as error:
            _fail(ask, error)
            return
        self._served = (ranking.model, ranking.prompt)
        ask.usage = ranking.usage
        for row in ranking.results:
            self._pairs.put(pair_key(identity, ask.request, row.document), row)
            if not ask.rows[row.index].done():
                ask.rows[row.index].set_result(row)
        _fail(ask, Unreachable("the server's answer lacks this document"))

    def _require_open(self) -> None:
        if self._closed:
            raise InvalidRequest("this client is closed: make a new one")


def _row(
    index: int, document: Document, told: RankedDocument | None, errors: Sequence[BaseException]
) -> RankedDocument:
    if told is None:
        return RankedDocument(index, document, error=DocumentError("unreachable", str(errors[0])))
    return replace(told, index=index, document=document, rank=None)


def _fail(ask: Ask, error: WhyrankError) -> None:
    for row in ask.rows:
        if not row.done():
            row.set_exception(error)


def _body(request: RerankRequest) -> dict[str, Any]:
    """RerankAsk. What is None or empty says nothing."""
    body = {name: value for name, value in asdict(request).items() if value is not None and name != "documents"}
    documents = [_document(document) for document in request.documents]
    return body | {"documents": documents, "return_documents": False}


def _document(document: Document) -> str | dict[str, Any]:
    if document.title is None and not document.metadata:
        return document.text  # ids stay here: rows come back by index
    body: dict[str, Any] = {"text": document.text, "title": document.title, "metadata": dict(document.metadata)}
    return {name: value for name, value in body.items() if value}


def _understood(read: Any) -> Any:
    try:
        return read()
    except (KeyError, TypeError, ValueError, IndexError) as cause:
        raise Unreachable(f"the server's answer is not what whyrank sends: {type(cause).__name__}: {cause}") from cause
