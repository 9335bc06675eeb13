"""AsyncClient: the methods of the in-process Reranker, answered by a server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager, suppress
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from whyrank.base import BaseReranker
from whyrank.calibration import read_calibration
from whyrank.client.batching import Batcher, PendingBatch
from whyrank.client.cache import CachedRow, PairKey, ScoreCache, pair_key
from whyrank.client.calibrated import CalibratedEvents, calibrated
from whyrank.client.decode import error_of
from whyrank.client.encode import batch_of, encode_documents, encode_request, joined, pair_head
from whyrank.client.retry import RetryPolicy
from whyrank.client.split import (
    SAME_MODEL_ATTEMPTS,
    Served,
    evidence_request,
    mixed_models,
    odd_ones,
    parts_of,
    rejoined,
    score_request,
    served_by,
    with_evidence,
)
from whyrank.client.transport import PendingRequest, Transport
from whyrank.errors import (
    InvalidRequest,
    MixedModels,
    PermanentError,
    RetryableError,
    TooLarge,
    Unreachable,
    WhyrankError,
)
from whyrank.events import Event
from whyrank.fan_out import as_completed
from whyrank.ranking import Ranking, apply_cutoffs, select_for_evidence, sort_rows
from whyrank.request import RerankRequest
from whyrank.types import Document, DocumentError, RankedDocument, Usage
from whyrank.wire import event_from_dict, ranking_from_dict

__all__ = ["AsyncClient"]

T = TypeVar("T")

# Documents and bytes of one batch. Answers come when all of them are scored, so not too many.
_MAX_DOCUMENTS_PER_BATCH = 256
_MAX_BYTES_PER_BATCH = 8 << 20
# Batches under way at once: a few keep a server busy, and whoever comes later gets into fuller ones.
_MAX_CONCURRENT_BATCHES = 8
# A server that was heard so many seconds ago still has the model that it had.
_TRUSTED_SECONDS = 1.0
# The server answers at its deadline; the way back takes a little longer.
_WAY_BACK_SECONDS = 1.0
# An exchange ends by itself when time is up, and knows better why.
_GRACE_SECONDS = 0.1

_NO_DOCUMENT = Document("")


class AsyncClient(BaseReranker):
    """The methods and types of Reranker, over HTTP.

        async with AsyncClient("http://localhost:8000", api_key="...") as client:
            ranking = await client.rerank("boiling point of water", ["Water boils at 100 °C.", "Everest is high."])

    Scores that are asked for at about the same time travel together, within `window_ms`; the same (query, document) pair is
    asked once while it is under way or among the last `remembered_pairs`. Several URLs: the same query goes to the same server
    while that is well. What can be retried is, within `timeout` seconds or the call's own deadline_ms. More documents than the
    server takes go in parts, but for `stream`.

    It belongs to the event loop of its first call; `Client` works from every thread and loop.

    `calibration`: a file of `whyrank calibrate`, where the server was started without one or with another.
    """

    # Not a limit of ours: calls wait in the batcher and for a place on the wire.
    _max_concurrency = 1024

    def __init__(
        self,
        base_url: str | Sequence[str],
        api_key: str | None = None,
        *,
        timeout: float = 60.0,
        window_ms: float = 2.0,
        remembered_pairs: int = 50_000,
        retry: RetryPolicy | None = None,
        calibration: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        urls = [base_url] if isinstance(base_url, str) else list(base_url)
        self._transport = Transport(urls, api_key, timeout, retry or RetryPolicy(), transport)
        self._batcher = Batcher(
            self._send, window_ms / 1000, _MAX_DOCUMENTS_PER_BATCH, _MAX_BYTES_PER_BATCH, _MAX_CONCURRENT_BATCHES
        )
        self._pairs = ScoreCache(remembered_pairs)
        self._under_way: dict[PairKey, PendingBatch] = {}
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
        """Wait for the calls under way, then close the connections. Streams that are still open break off."""
        self._require_own_loop()
        self._closed = True
        try:
            await self._idle.wait()
            await self._batcher.finish()
        finally:
            await self._transport.aclose()

    @contextmanager
    def _call(self) -> Iterator[None]:
        """One that `aclose` waits for."""
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
            raise InvalidRequest("this client is closed: make a new one")
        self._require_own_loop()

    def _require_own_loop(self) -> None:
        """Connections and whatever waits belong to one event loop: that of the first call."""
        running = asyncio.get_running_loop()
        # setdefault is atomic: of two threads that call first at the same time, one loses.
        if vars(self).setdefault("_own_loop", running) is not running:
            raise InvalidRequest(
                "this AsyncClient belongs to another event loop: make one per loop, or use Client, which works from all threads"
            )

    async def _map(self, ask: Callable[[int], Awaitable[T]], count: int) -> list[T]:
        self._require_open()  # raised once, and not told in the place of every answer
        return await super()._map(ask, count)

    async def events(self, request: RerankRequest, live: bool = False) -> AsyncGenerator[Event, None]:
        self._require_open()
        documents, calibrating = encode_documents(request), CalibratedEvents(self._calibration)
        pending = _pending_request("/v1/rerank/stream", request, documents, self._end(request))
        try:
            async with aclosing(self._transport.events(pending)) as events:
                async for name, data in events:
                    received = _understood(event_from_dict, name, data, request.documents)
                    for event in calibrating.after(received):
                        yield event
        except TooLarge as error:
            if len(_parts(documents)) > 1:
                error.args = (
                    f"{error}. A stream is always one request: `rerank` splits by itself, with evidence, too",
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
        if request.mode == "score" and request.deadline_ms is None:
            return await self._scored(request, end)
        # Evidence takes its time and a deadline has none to lose: neither waits for company.
        documents = encode_documents(request)
        try:
            return await self._whole(request, documents, end)
        except TooLarge:
            if len(parts := _parts(documents)) == 1:
                raise
        try:
            return await self._in_parts(request, parts, documents, end)
        except MixedModels:  # the model was replaced between scores and evidence: all of it once more
            return await self._in_parts(request, parts, documents, end)

    async def _in_parts(
        self, request: RerankRequest, parts: Sequence[range], documents: Sequence[bytes], end: float
    ) -> Ranking:
        ranking = await self._scored_in_parts(request, parts, documents, end)
        return ranking if request.mode == "score" else await self._written(ranking, request, end)

    async def _whole(self, request: RerankRequest, documents: Sequence[bytes], end: float) -> Ranking:
        body, _ = await self._transport.post(_pending_request("/v1/rerank", request, documents, end))
        return _understood(ranking_from_dict, body, request.documents)

    async def _scored_in_parts(
        self, request: RerankRequest, parts: Sequence[range], documents: Sequence[bytes], end: float
    ) -> Ranking:
        answers = await self._answers(request, parts, documents, end)
        kept: Served | None = None
        for _ in range(SAME_MODEL_ATTEMPTS):
            served = {part: served_by(answer) for part, answer in answers.items() if isinstance(answer, Ranking)}
            if not (odd := odd_ones(served, kept)):
                break
            again = await self._answers(request, odd, documents, end)
            kept = next((served_by(answer) for answer in again.values() if isinstance(answer, Ranking)), kept)
            answers |= again
        return rejoined(request, answers)

    async def _answers(
        self, request: RerankRequest, parts: Sequence[range], documents: Sequence[bytes], end: float
    ) -> dict[range, Ranking | WhyrankError]:
        async def ask(number: int) -> Ranking | WhyrankError:
            part = parts[number]
            try:
                return await self._whole(score_request(request, part), documents[part.start : part.stop], end)
            except WhyrankError as error:
                return error

        answers: dict[range, Ranking | WhyrankError] = {}
        async with aclosing(as_completed(ask, len(parts), _MAX_CONCURRENT_BATCHES)) as answered:
            async for number, answer in answered:
                answers[parts[number]] = answer
        return answers

    async def _written(self, ranking: Ranking, request: RerankRequest, end: float) -> Ranking:
        chosen = select_for_evidence(ranking.results, request.evidence_min_score, request.evidence_top_n)
        if not chosen:
            return ranking
        evidence_only = evidence_request(request, chosen)
        answer: Ranking | None = None
        with suppress(RetryableError):  # the scores are there: what is missing is told in its row
            answer = await self._whole(evidence_only, encode_documents(evidence_only), end)
            if served_by(answer) != served_by(ranking):
                answer = await self._whole(evidence_only, encode_documents(evidence_only), end)
        return with_evidence(ranking, chosen, answer, "error" if request.deadline_ms is None else "deadline")

    # Scores: from memory, from what others are asking for, or asked for together with what others ask.

    async def _scored(self, request: RerankRequest, end: float) -> Ranking:
        question = _Question.of(request, end)
        identity = self._transport.preferred(request.query).identity
        known = self._known(identity, question)
        if len(known) == len(question.documents):  # from memory alone: is the server still the one that said so?
            identity = await self._transport.identity(request.query, _TRUSTED_SECONDS, question.end)
            known = self._known(identity, question)
        asks, own = self._asks(question, known, join=True)
        await self._wait(asks.values(), question.end)
        if _is_mixed(identity, known, asks.values()) or _is_anothers_fault(asks.values(), own):
            known = {}
            asks, more = self._asks(question, known, join=False)
            own += more
            await self._wait(asks.values(), question.end)
        await self._ask_odd_ones_again(question, asks, own)
        return _ranking(request, question, known, asks, own)

    async def _ask_odd_ones_again(
        self, question: _Question, asks: dict[PairKey, PendingBatch], own: list[PendingBatch]
    ) -> None:
        """Until one model has answered all that is answered, at most a few times. `asks` and `own` get the new ones."""
        kept: Served | None = None
        for _ in range(SAME_MODEL_ATTEMPTS):
            if not (odd := odd_ones(_served(asks), kept)):
                return
            again, more = self._asks(question, question.documents.keys() - odd, join=False)
            asks |= again
            own += more
            await self._wait(more, question.end)
            kept = next((ask.served for ask in more if ask.rows), kept)
        if len(models := {*_served(asks).values()}) > 1:
            raise mixed_models(models)

    def _known(self, identity: str | None, question: _Question) -> dict[PairKey, CachedRow]:
        found = ((key, self._pairs.get(identity, key)) for key in question.documents)
        return {key: known for key, known in found if known is not None}

    def _asks(
        self, question: _Question, known: Collection[PairKey], join: bool
    ) -> tuple[dict[PairKey, PendingBatch], list[PendingBatch]]:
        """Who asks for the pairs that are not known: another call, if we may `join` it, or new asks of our own."""
        unknown = [key for key in question.documents if key not in known]
        asks = {key: ask for key in unknown if join and (ask := self._under_way.get(key)) is not None}
        own = []
        for keys in question.parts([key for key in unknown if key not in asks]):
            ask = PendingBatch(
                question.request.query,
                keys,
                joined(question.head, [question.documents[key] for key in keys]),
                question.end,
                self._transport.preferred(question.request.query).url,
            )
            for key in keys:
                asks[key] = ask
                self._under_way.setdefault(key, ask)
            own.append(ask)
            self._batcher.add(ask)
        return asks, own

    async def _wait(self, asks: Collection[PendingBatch], end: float) -> None:
        """Until all are there. Whoever leaves earlier takes nothing from others who wait for the same rows."""
        asks = set(asks)
        for ask in asks:
            ask.wanted += 1
        try:
            if left := [ask.done for ask in asks if not ask.done.done()]:
                await asyncio.wait(left, timeout=max(0.0, end - time.monotonic() + _GRACE_SECONDS))
        finally:
            for ask in asks:
                ask.wanted -= 1
                if not ask.wanted and not ask.done.done():
                    self._finish(ask, Unreachable("nobody waited any longer"))
                    self._batcher.leave(ask)

    async def _send(self, asks: Sequence[PendingBatch]) -> None:
        """One request for several asks. Whatever happens, each learns what came of it."""
        try:
            content = batch_of([ask.content for ask in asks])
            pending = PendingRequest(
                "/v1/rerank/batch", lambda left: content, asks[0].query, max(ask.end for ask in asks)
            )
            body, identity = await self._transport.post(pending)
            answers = _understood(lambda: [*zip(asks, body["answers"], strict=True)])
        except TooLarge as error:
            if len(asks) == 1:
                self._finish(asks[0], error)
            else:  # together they are, and perhaps none is alone
                half = len(asks) // 2
                await asyncio.gather(self._send(asks[:half]), self._send(asks[half:]))
        except Exception as error:
            if not isinstance(error, WhyrankError):
                error = Unreachable(f"{type(error).__name__}: {error}")
            for ask in asks:
                self._finish(ask, error)
        except BaseException:
            for ask in asks:
                self._finish(ask, Unreachable("the request was cancelled"))
            raise
        else:
            for ask, received in answers:
                self._settle(ask, received, identity)

    def _settle(self, ask: PendingBatch, received: Any, identity: str | None) -> None:
        try:
            if _understood(lambda: "error" in received):
                raise error_of(400, received, None, None)
            ranking = _understood(ranking_from_dict, received, [_NO_DOCUMENT] * len(ask.keys))
        except WhyrankError as error:
            self._finish(ask, error)
            return
        ask.usage, ask.identity, ask.served = ranking.usage, identity, (ranking.model, ranking.prompt)
        for row in ranking.results:
            key = ask.keys[row.index]
            ask.rows[key] = row
            self._pairs.put(identity, key, CachedRow(row, ask.served))
        self._finish(ask, Unreachable("the server's answer lacks this document"))

    def _finish(self, ask: PendingBatch, error: WhyrankError) -> None:
        """`error`: why rows are missing, if any are."""
        if ask.done.done():
            return
        ask.error = error
        ask.done.set_result(None)
        for key in ask.keys:
            if self._under_way.get(key) is ask:
                del self._under_way[key]


@dataclass(frozen=True, slots=True)
class _Question:
    """A request for scores, in the words in which the server is asked. Equal documents are one."""

    request: RerankRequest
    head: bytes
    keys: Sequence[PairKey]
    documents: Mapping[PairKey, bytes]
    end: float

    @classmethod
    def of(cls, request: RerankRequest, end: float) -> _Question:
        head, documents = pair_head(request), encode_documents(request)
        keys = [pair_key(head, document) for document in documents]
        return cls(request, head, keys, dict(zip(keys, documents, strict=True)), end)

    def parts(self, keys: Sequence[PairKey]) -> Iterator[list[PairKey]]:
        for part in _parts([self.documents[key] for key in keys]):
            yield [*keys[part.start : part.stop]]


def _parts(documents: Sequence[bytes]) -> list[range]:
    return [*parts_of([*map(len, documents)], _MAX_DOCUMENTS_PER_BATCH, _MAX_BYTES_PER_BATCH)]


def _pending_request(path: str, request: RerankRequest, documents: Sequence[bytes], end: float) -> PendingRequest:
    """One request, alone. Of a deadline the server is told what is left when it is asked."""
    deadline_ms = request.deadline_ms

    def content(left: float) -> bytes:
        if deadline_ms is None:
            return encode_request(request, documents)
        left_ms = max(1.0, 1000 * (left - _WAY_BACK_SECONDS))
        return encode_request(replace(request, deadline_ms=min(deadline_ms, left_ms)), documents)

    return PendingRequest(path, content, request.query, end)


def _served(asks: Mapping[PairKey, PendingBatch]) -> dict[PairKey, Served]:
    return {key: ask.served for key, ask in asks.items() if key in ask.rows}


def _is_mixed(identity: str | None, known: Collection[PairKey], asks: Collection[PendingBatch]) -> bool:
    """Memory of one server and answers of another make no ranking."""
    return bool(known) and any(ask.rows and ask.identity != identity for ask in asks)


def _is_anothers_fault(asks: Collection[PendingBatch], own: Collection[PendingBatch]) -> bool:
    """We joined a call that was refused for what else it brought, or whose time was up before ours."""
    joined = (ask for ask in asks if ask.done.done() and not ask.rows and ask not in own)
    return any(isinstance(ask.error, PermanentError) or time.monotonic() >= ask.end for ask in joined)


def _ranking(
    request: RerankRequest,
    question: _Question,
    known: Mapping[PairKey, CachedRow],
    asks: Mapping[PairKey, PendingBatch],
    own: Sequence[PendingBatch],
) -> Ranking:
    """Of what is known and what was told. Raises where that is nothing, or where the request is at fault."""
    errors = {key: _error(ask) for key, ask in asks.items() if key not in ask.rows}
    for error in errors.values():
        if isinstance(error, PermanentError) or len(errors) == len(question.documents):
            raise error
    rows = []
    for index, (key, document) in enumerate(zip(question.keys, request.documents, strict=True)):
        if key in errors:
            rows.append(RankedDocument(index, document, error=DocumentError("unreachable", str(errors[key]))))
        else:
            row = known[key].row if key in known else asks[key].rows[key]
            rows.append(replace(row, index=index, document=document))
    served = [ask.served for ask in asks.values() if ask.rows] or [one.served for one in known.values()]
    usage = sum((ask.usage for ask in own), Usage())
    return Ranking(apply_cutoffs(sort_rows(rows), request.min_score, request.top_n), usage, *served[0])


def _error(ask: PendingBatch) -> WhyrankError:
    """Why a row is missing, as an exception of the caller's own."""
    return Unreachable("no answer in the time there was") if ask.error is None else copy(ask.error)


def _understood(read: Callable[..., T], *received: Any) -> T:
    try:
        return read(*received)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as cause:
        raise Unreachable(f"the server's answer is not what whyrank sends: {type(cause).__name__}: {cause}") from cause
