"""The methods shared by the in-process Reranker and the client. A subclass only answers single requests."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypeVar, Unpack

from whyrank.errors import InvalidRequest, PermanentError
from whyrank.events import Event
from whyrank.fan_out import as_completed
from whyrank.ranking import Ranking
from whyrank.request import RerankOptions, RerankRequest
from whyrank.types import DocumentLike, RankedDocument

__all__ = ["BaseReranker"]

T = TypeVar("T")


class BaseReranker(ABC):
    _max_concurrency: int
    """Concurrent requests of one rerank_many or score_grid."""

    @abstractmethod
    async def _answer(self, request: RerankRequest) -> Ranking: ...

    @abstractmethod
    def events(self, request: RerankRequest, live: bool = False) -> AsyncGenerator[Event, None]: ...

    async def rerank(self, query: str, documents: Iterable[DocumentLike], **options: Unpack[RerankOptions]) -> Ranking:
        """Score every document and order them, best first; in mode "evidence" also generate evidence for the best.

        Raises the errors of errors.py. A document that cannot be scored raises nothing: its row has an `error`.
        """
        return await self._answer(RerankRequest.of(query, documents, **options))

    async def score(
        self, query: str, documents: Iterable[DocumentLike], **options: Unpack[RerankOptions]
    ) -> tuple[RankedDocument, ...]:
        """The rows of `rerank`, in the order of the documents."""
        ranking = await self.rerank(query, documents, **options)
        return tuple(sorted(ranking.results, key=lambda row: row.index))

    async def stream(
        self, query: str, documents: Iterable[DocumentLike], **options: Unpack[RerankOptions]
    ) -> AsyncGenerator[Event, None]:
        """`rerank` as a stream of events (see events.py). Closing the stream early aborts the engine's work."""
        async with aclosing(self.events(RerankRequest.of(query, documents, **options), live=True)) as events:
            async for event in events:
                yield event

    async def score_grid(
        self, queries: Sequence[str], documents: Sequence[DocumentLike], **options: Unpack[RerankOptions]
    ) -> list[tuple[RankedDocument, ...]]:
        """Score every query with every document: one list of rows per query, in order."""
        if isinstance(queries, str) or not queries:
            raise InvalidRequest(f"queries is {queries!r:.60}: give a non-empty list of strings")
        documents = list(documents)
        return await self._map(lambda i: self.score(queries[i], documents, **options), len(queries))

    async def rerank_many(
        self, requests: Iterable[RerankRequest | Mapping[str, Any]]
    ) -> list[Ranking | PermanentError]:
        """Run several requests concurrently; results in order. A request that fails permanently has its error in its place."""
        given = list(requests)

        async def answer(index: int) -> Ranking | PermanentError:
            try:
                return await self._answer(_request(given[index], f"requests[{index}]"))
            except PermanentError as error:
                return error

        return await self._map(answer, len(given))

    async def _map(self, work: Callable[[int], Awaitable[T]], count: int) -> list[T]:
        answers: dict[int, T] = {}
        async with aclosing(as_completed(work, count, self._max_concurrency)) as completed:
            async for index, answer in completed:
                answers[index] = answer
        return [answers[index] for index in range(count)]


def _request(given: RerankRequest | Mapping[str, Any], where: str) -> RerankRequest:
    if isinstance(given, RerankRequest):
        return given
    try:
        return RerankRequest.of(**given)
    except (TypeError, InvalidRequest) as cause:
        raise InvalidRequest(f"{where}: {cause}") from cause
