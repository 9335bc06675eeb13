"""Scores of single pairs: from the cache, from other calls' pending batches, or sent in a batch with other calls' pairs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

from whyrank.client.batching import Batcher, PendingBatch
from whyrank.client.cache import CachedRow, PairKey, ScoreCache, pair_key
from whyrank.client.decode import decoded, error_of
from whyrank.client.encode import batch_of, encode_documents, joined, pair_head
from whyrank.client.split import SAME_MODEL_ATTEMPTS, Served, mixed_models, odd_ones, split
from whyrank.client.transport import PendingRequest, Transport
from whyrank.errors import PermanentError, TooLarge, Unreachable, WhyrankError
from whyrank.ranking import Ranking, apply_cutoffs, sort_rows
from whyrank.request import RerankRequest
from whyrank.types import Document, DocumentError, RankedDocument, Usage
from whyrank.wire.responses import ranking_from_dict

__all__ = ["PairScorer"]

# A server that answered within this time is assumed to have the same model still.
_TRUSTED_SECONDS = 1.0
# A request times out by itself and with a better message: wait for that.
_GRACE_SECONDS = 0.1

_NO_DOCUMENT = Document("")


class PairScorer:
    """Scores (query, document) pairs. A pair is not sent again while it is in flight or cached."""

    def __init__(self, transport: Transport, window: float, cached_pairs: int, model: str | None) -> None:
        self._transport, self._model = transport, model
        self._batcher = Batcher(self._send, window)
        self._cache = ScoreCache(cached_pairs)
        self._under_way: dict[PairKey, PendingBatch] = {}

    async def finish(self) -> None:
        """Wait for the batches in flight."""
        await self._batcher.finish()

    async def score(self, request: RerankRequest, end: float) -> Ranking:
        pairs = _PairRequest.of(request, self._model, end)
        identity = self._transport.preferred(request.query).identity
        cached = self._cached(identity, pairs)
        if len(cached) == len(pairs.documents):  # everything is cached: is the server still the one that scored it?
            identity = await self._transport.identity(request.query, _TRUSTED_SECONDS, pairs.end)
            cached = self._cached(identity, pairs)
        batches, created = self._batches(pairs, cached, join=True)
        await self._wait(batches.values(), pairs.end)
        if _is_mixed(identity, cached, batches.values()) or _is_anothers_fault(batches.values(), created):
            cached = {}
            batches, more = self._batches(pairs, cached, join=False)
            created += more
            await self._wait(batches.values(), pairs.end)
        await self._repeat_other_models(pairs, batches, created)
        return _ranking(request, pairs, cached, batches, created)

    async def _repeat_other_models(
        self, pairs: _PairRequest, batches: dict[PairKey, PendingBatch], created: list[PendingBatch]
    ) -> None:
        """Repeat until one model has scored everything, at most a few times. Adds new batches to `batches` and `created`."""
        kept: Served | None = None
        for _ in range(SAME_MODEL_ATTEMPTS):
            if not (odd := odd_ones(_served(batches), kept)):
                return
            again, more = self._batches(pairs, pairs.documents.keys() - odd, join=False)
            batches |= again
            created += more
            await self._wait(more, pairs.end)
            kept = next((batch.served for batch in more if batch.rows), kept)
        if len(models := {*_served(batches).values()}) > 1:
            raise mixed_models(models)

    def _cached(self, identity: str | None, pairs: _PairRequest) -> dict[PairKey, CachedRow]:
        rows = ((key, self._cache.get(identity, key)) for key in pairs.documents)
        return {key: row for key, row in rows if row is not None}

    def _batches(
        self, pairs: _PairRequest, cached: Collection[PairKey], join: bool
    ) -> tuple[dict[PairKey, PendingBatch], list[PendingBatch]]:
        """The batches with the uncached pairs, and those of them that are new. `join`: also use batches of other calls."""
        unknown = [key for key in pairs.documents if key not in cached]
        batches = {key: batch for key in unknown if join and (batch := self._under_way.get(key)) is not None}
        created = []
        for keys in pairs.parts([key for key in unknown if key not in batches]):
            batch = PendingBatch(
                pairs.request.query,
                keys,
                joined(pairs.head, [pairs.documents[key] for key in keys]),
                pairs.end,
                self._transport.preferred(pairs.request.query).url,
            )
            for key in keys:
                batches[key] = batch
                self._under_way.setdefault(key, batch)
            created.append(batch)
            self._batcher.add(batch)
        return batches, created

    async def _wait(self, batches: Collection[PendingBatch], end: float) -> None:
        """Wait until all are complete. A call that gives up takes nothing from others that wait for the same rows."""
        batches = set(batches)
        for batch in batches:
            batch.wanted += 1
        try:
            if left := [batch.done for batch in batches if not batch.done.done()]:
                await asyncio.wait(left, timeout=max(0.0, end - time.monotonic() + _GRACE_SECONDS))
        finally:
            for batch in batches:
                batch.wanted -= 1
                if not batch.wanted and not batch.done.done():
                    self._complete(batch, Unreachable("all callers gave up waiting"))
                    self._batcher.leave(batch)

    async def _send(self, batches: Sequence[PendingBatch]) -> None:
        """Send several batches as one request. Whatever happens, each is completed."""
        try:
            content = batch_of([batch.content for batch in batches])
            pending = PendingRequest(
                "/v1/rerank/batch", lambda left: content, batches[0].query, max(batch.end for batch in batches)
            )
            body, identity = await self._transport.post(pending)
            answers = decoded(lambda: [*zip(batches, body["answers"], strict=True)])
        except TooLarge as error:
            if len(batches) == 1:
                self._complete(batches[0], error)
            else:  # too large together, but perhaps not alone
                half = len(batches) // 2
                await asyncio.gather(self._send(batches[:half]), self._send(batches[half:]))
        except Exception as error:
            if not isinstance(error, WhyrankError):
                error = Unreachable(f"{type(error).__name__}: {error}")
            for batch in batches:
                self._complete(batch, error)
        except BaseException:
            for batch in batches:
                self._complete(batch, Unreachable("the request was cancelled"))
            raise
        else:
            for batch, received in answers:
                self._resolve(batch, received, identity)

    def _resolve(self, batch: PendingBatch, received: Any, identity: str | None) -> None:
        try:
            if decoded(lambda: "error" in received):
                raise error_of(400, received, None, None)
            ranking = decoded(ranking_from_dict, received, [_NO_DOCUMENT] * len(batch.keys))
        except WhyrankError as error:
            self._complete(batch, error)
            return
        batch.usage, batch.identity, batch.served = ranking.usage, identity, (ranking.model, ranking.prompt)
        for row in ranking.results:
            key = batch.keys[row.index]
            batch.rows[key] = row
            self._cache.put(identity, key, CachedRow(row, batch.served))
        self._complete(batch, Unreachable("the server's answer lacks this document"))

    def _complete(self, batch: PendingBatch, error: WhyrankError) -> None:
        """Mark the batch as done. `error`: why rows are missing, if any are."""
        if batch.done.done():
            return
        batch.error = error
        batch.done.set_result(None)
        for key in batch.keys:
            if self._under_way.get(key) is batch:
                del self._under_way[key]


@dataclass(frozen=True, slots=True)
class _PairRequest:
    """A request for scores as its JSON parts. Equal documents are sent once."""

    request: RerankRequest
    head: bytes
    keys: Sequence[PairKey]
    documents: Mapping[PairKey, bytes]
    end: float

    @classmethod
    def of(cls, request: RerankRequest, model: str | None, end: float) -> _PairRequest:
        head, documents = pair_head(request, model), encode_documents(request)
        keys = [pair_key(head, document) for document in documents]
        return cls(request, head, keys, dict(zip(keys, documents, strict=True)), end)

    def parts(self, keys: Sequence[PairKey]) -> Iterator[list[PairKey]]:
        for part in split([self.documents[key] for key in keys]):
            yield [*keys[part.start : part.stop]]


def _served(batches: Mapping[PairKey, PendingBatch]) -> dict[PairKey, Served]:
    return {key: batch.served for key, batch in batches.items() if key in batch.rows}


def _is_mixed(identity: str | None, cached: Collection[PairKey], batches: Collection[PendingBatch]) -> bool:
    """Whether cached rows and newly scored ones come from different servers: they must not be mixed in one ranking."""
    return bool(cached) and any(batch.rows and batch.identity != identity for batch in batches)


def _is_anothers_fault(batches: Collection[PendingBatch], created: Collection[PendingBatch]) -> bool:
    """Whether a joined batch of another call failed for a reason of its own: its other content, or an earlier deadline."""
    joined = (batch for batch in batches if batch.done.done() and not batch.rows and batch not in created)
    return any(isinstance(batch.error, PermanentError) or time.monotonic() >= batch.end for batch in joined)


def _ranking(
    request: RerankRequest,
    pairs: _PairRequest,
    cached: Mapping[PairKey, CachedRow],
    batches: Mapping[PairKey, PendingBatch],
    created: Sequence[PendingBatch],
) -> Ranking:
    """The ranking of cached and scored rows. Raises if there are none, or if the request is at fault."""
    errors = {key: _error(batch) for key, batch in batches.items() if key not in batch.rows}
    for error in errors.values():
        if isinstance(error, PermanentError) or len(errors) == len(pairs.documents):
            raise error
    rows = []
    for index, (key, document) in enumerate(zip(pairs.keys, request.documents, strict=True)):
        if key in errors:
            rows.append(RankedDocument(index, document, error=DocumentError("unreachable", str(errors[key]))))
        else:
            row = cached[key].row if key in cached else batches[key].rows[key]
            rows.append(replace(row, index=index, document=document))
    served = [batch.served for batch in batches.values() if batch.rows] or [one.served for one in cached.values()]
    usage = sum((batch.usage for batch in created), Usage())
    return Ranking(apply_cutoffs(sort_rows(rows), request.min_score, request.top_n), usage, *served[0])


def _error(batch: PendingBatch) -> WhyrankError:
    """Why a row is missing, as an exception for this caller alone."""
    return Unreachable("no answer before the timeout") if batch.error is None else copy(batch.error)
