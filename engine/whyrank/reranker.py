"""The one road a request takes (`Reranker.events`). Everything else in whyrank is a door onto it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack
from weakref import WeakSet

from whyrank.calibration import read_calibration
from whyrank.config import EngineConfig
from whyrank.deadline import Deadline
from whyrank.errors import InvalidRequest, PermanentError
from whyrank.events import Event, Finished, Ranked, Scored
from whyrank.ranking import Ranking
from whyrank.reading import Reader
from whyrank.requests import RerankOptions, RerankRequest
from whyrank.runtimes.base import Runtime, as_answered
from whyrank.scoresheet import Scoresheet
from whyrank.tokens import PromptEncoder
from whyrank.types import DocumentLike, RankedDocument
from whyrank.writing import Writer

__all__ = ["Reranker"]

# Requests of one rerank_many or score_grid under way at once. The engine batches prompts, not requests: a few keep it full.
_REQUESTS_AT_ONCE = 16

T = TypeVar("T")


class Reranker:
    """Reranks in this process, on an engine of its own.

        async with Reranker("Qwen/Qwen3-Reranker-0.6B") as reranker:
            ranking = await reranker.rerank("boiling point of water", ["Water boils at 100 °C.", "Everest is high."])

    Give a model's name and the fields of EngineConfig, or an EngineConfig. The options of a call are those of RerankRequest.
    Calls may overlap and share the engine; cancelling one frees its work.
    """

    def __init__(self, model: str | EngineConfig, **options: Any) -> None:
        self.config = EngineConfig(model, **options) if isinstance(model, str) else model
        self._calibration = read_calibration(Path(self.config.calibration)) if self.config.calibration else None
        self._runtime: Runtime | None = None
        self._encoder: PromptEncoder | None = None
        self._under_way = WeakSet[Deadline]()

    @classmethod
    def over(cls, runtime: Runtime, encoder: PromptEncoder, config: EngineConfig) -> Reranker:
        """On an engine that runs already and belongs to somebody else, who also stops it."""
        reranker = cls(config)
        reranker._runtime, reranker._encoder = runtime, encoder
        reranker._check_calibration(encoder)
        return reranker

    async def __aenter__(self) -> Self:
        from whyrank.checkpoints import make_plan
        from whyrank.runtimes import start_runtime

        plan = await asyncio.to_thread(make_plan, self.config)
        self._check_calibration(plan.encoder)
        self._runtime, self._encoder = await start_runtime(plan), plan.encoder
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        runtime, self._runtime = self._runtime, None
        if runtime is not None:
            await runtime.aclose()

    async def rerank(self, query: str, documents: Iterable[DocumentLike], **options: Unpack[RerankOptions]) -> Ranking:
        """Score every document and order them, best first; in mode "evidence" also continue the best.

        Raises InvalidRequest and EngineDead; what goes wrong with one document is told in its row.
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
        """`rerank` as it happens (see events.py). Closing the stream early frees the engine's work."""
        async with aclosing(self.events(RerankRequest.of(query, documents, **options), live=True)) as events:
            async for event in events:
                yield event

    async def score_grid(
        self, queries: Sequence[str], documents: Sequence[DocumentLike], **options: Unpack[RerankOptions]
    ) -> list[tuple[RankedDocument, ...]]:
        """Every query with every document: one `score` per query, in order. No value depends on its neighbours."""
        if isinstance(queries, str) or not queries:
            raise InvalidRequest(f"queries is {queries!r:.60}: give a non-empty list of strings")
        documents = list(documents)
        return await _in_order(lambda i: self.score(queries[i], documents, **options), len(queries))

    async def rerank_many(
        self, requests: Iterable[RerankRequest | Mapping[str, Any]]
    ) -> list[Ranking | PermanentError]:
        """Several requests at once, answered in order. A request that cannot be answered gets its error in its place."""
        asked = list(requests)

        async def answer(index: int) -> Ranking | PermanentError:
            try:
                return await self._answer(_request(asked[index], f"requests[{index}]"))
            except PermanentError as error:
                return error

        return await _in_order(answer, len(asked))

    async def _answer(self, request: RerankRequest) -> Ranking:
        async with aclosing(self.events(request)) as events:
            async for event in events:
                last = event
        assert isinstance(last, Finished)  # the road's end
        return last.ranking

    async def events(self, request: RerankRequest, live: bool = False) -> AsyncGenerator[Event, None]:
        """Text to ids, ids to label reads, reads to an order; then the best are continued and held against their text."""
        runtime, encoder = self._started()
        reader = Reader(request, runtime, encoder)
        writer = Writer(request, runtime, encoder, live) if request.mode == "evidence" else None
        deadline = Deadline(request.deadline_ms)
        self._under_way.add(deadline)
        sheet = Scoresheet(request, encoder.format.score_rule, self._calibration)
        async with aclosing(reader.read(sheet, deadline)) as rows:
            async for row in rows:
                yield Scored(row)
        usage = sheet.usage() + reader.priming
        ranking = Ranking(sheet.results(), usage, self.config.model, encoder.format.fingerprint)
        yield Ranked(ranking)
        if writer is not None:
            async with aclosing(writer.write(sheet, deadline)) as events:
                async for event in events:
                    yield event
            usage += writer.usage
            ranking = replace(ranking, results=sheet.results(), usage=usage, evidence_usage=writer.usage)
        yield Finished(ranking)

    def wind_up(self) -> None:
        """Every call under way answers now, with what it has: for an engine that is about to be stopped."""
        for deadline in tuple(self._under_way):
            deadline.end()

    def _check_calibration(self, encoder: PromptEncoder) -> None:
        if self._calibration is not None:
            self._calibration.check_fits(encoder.format.fingerprint)

    def _started(self) -> tuple[Runtime, PromptEncoder]:
        if self._runtime is None or self._encoder is None:
            raise InvalidRequest("this Reranker is not running: use `async with Reranker(...) as reranker:`")
        return self._runtime, self._encoder


def _request(asked: RerankRequest | Mapping[str, Any], where: str) -> RerankRequest:
    if isinstance(asked, RerankRequest):
        return asked
    try:
        return RerankRequest.of(**asked)
    except (TypeError, InvalidRequest) as cause:
        raise InvalidRequest(f"{where}: {cause}") from cause


async def _in_order(ask: Callable[[int], Awaitable[T]], count: int) -> list[T]:
    answers: dict[int, T] = {}
    async with aclosing(as_answered(ask, count, _REQUESTS_AT_ONCE)) as answered:
        async for index, answer in answered:
            answers[index] = answer
    return [answers[index] for index in range(count)]
