"""The one road a request takes (`Reranker._answer`). Everything else in whyrank is a door onto it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from whyrank.config import EngineConfig
from whyrank.errors import InvalidRequest, PermanentError
from whyrank.runtimes.base import Runtime, as_answered
from whyrank.scoring import LabelRead, ScoreRule, ranked, score_of
from whyrank.tokens import EncodedDocument, Ids, PromptEncoder
from whyrank.types import (
    Document,
    DocumentError,
    DocumentLike,
    RankedDocument,
    Ranking,
    RerankOptions,
    RerankRequest,
    Usage,
)

__all__ = ["Progress", "Reranker"]

Progress = Callable[[int, int], None]
"""Told (prompts answered, prompts in all) while a call is under way."""

# Requests of one rerank_many or score_grid under way at once. The engine batches prompts, not requests: a few keep it full.
_REQUESTS_AT_ONCE = 16

T = TypeVar("T")


class Reranker:
    """Reranks in this process, on an engine of its own.

        async with Reranker("Qwen/Qwen3-Reranker-0.6B") as reranker:
            ranking = await reranker.rerank("boiling point of water", ["Water boils at 100 °C.", "Everest is high."])

    Give a model's name and the fields of EngineConfig, or an EngineConfig.
    Calls may overlap and share the engine; cancelling one frees its work.
    """

    def __init__(self, model: str | EngineConfig, **options: Any) -> None:
        self.config = EngineConfig(model, **options) if isinstance(model, str) else model
        self._runtime: Runtime | None = None
        self._encoder: PromptEncoder | None = None

    @classmethod
    def over(cls, runtime: Runtime, encoder: PromptEncoder, config: EngineConfig) -> Reranker:
        """On an engine that runs already and belongs to somebody else, who also stops it."""
        reranker = cls(config)
        reranker._runtime, reranker._encoder = runtime, encoder
        return reranker

    async def __aenter__(self) -> Self:
        from whyrank.checkpoints import make_plan
        from whyrank.runtimes import start_runtime

        plan = await asyncio.to_thread(make_plan, self.config)
        self._runtime, self._encoder = await start_runtime(plan), plan.encoder
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        runtime, self._runtime = self._runtime, None
        if runtime is not None:
            await runtime.aclose()

    async def rerank(
        self,
        query: str,
        documents: Iterable[DocumentLike],
        *,
        progress: Progress | None = None,
        **options: Unpack[RerankOptions],
    ) -> Ranking:
        """Score every document and order them, best first. Raises InvalidRequest, EngineDead; nothing for one document."""
        return await self._answer(RerankRequest.of(query, documents, **options), progress)

    async def score(
        self, query: str, documents: Iterable[DocumentLike], **options: Unpack[RerankOptions]
    ) -> tuple[RankedDocument, ...]:
        """The rows of `rerank`, in the order of the documents."""
        ranking = await self._answer(RerankRequest.of(query, documents, **options))
        return tuple(sorted(ranking.results, key=lambda row: row.index))

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

    async def _answer(self, request: RerankRequest, progress: Progress | None = None) -> Ranking:
        runtime, encoder = self._started()
        encoded = await asyncio.to_thread(
            encoder.encode, request.query, request.documents, request.instruction, request.truncation
        )
        prompts = _distinct_prompts(encoded)
        spent = await runtime.prime(prompts, encoder.shared_prefix(request.instruction))
        reads = await _read_all(runtime, prompts, progress)
        rows = [
            _row(index, document, row, reads, encoder.format.score_rule)
            for index, (document, row) in enumerate(zip(request.documents, encoded, strict=True))
        ]
        return Ranking(
            results=_chosen(ranked(rows), request),
            usage=sum((_usage(read) for read in reads.values()), spent),
            model=self.config.model,
            prompt=encoder.format.fingerprint,
        )

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


def _distinct_prompts(encoded: Iterable[EncodedDocument | DocumentError]) -> list[Ids]:
    """Each prompt once, in order: documents that read the same are scored once."""
    rows = (row for row in encoded if isinstance(row, EncodedDocument))
    return list(dict.fromkeys(prompt.ids for row in rows for prompt in row.prompts))


async def _read_all(
    runtime: Runtime, prompts: Sequence[Ids], progress: Progress | None
) -> dict[Ids, LabelRead | DocumentError]:
    reads: dict[Ids, LabelRead | DocumentError] = {}
    async with aclosing(runtime.read(prompts)) as answers:
        async for index, read in answers:
            reads[prompts[index]] = read
            if progress:
                progress(len(reads), len(prompts))
    return reads


def _row(
    index: int,
    document: Document,
    encoded: EncodedDocument | DocumentError,
    reads: Mapping[Ids, LabelRead | DocumentError],
    rule: ScoreRule,
) -> RankedDocument:
    """A document is as good as its best window. One window that failed leaves the document without a score."""
    if isinstance(encoded, DocumentError):
        return RankedDocument(index, document, error=encoded)
    scored = []
    for prompt in encoded.prompts:
        read = reads[prompt.ids]
        if isinstance(read, DocumentError):
            return RankedDocument(index, document, truncation=prompt.truncation, error=read)
        scored.append((score_of(read, rule), prompt.truncation))
    best, truncation = max(scored, key=lambda pair: pair[0].margin)
    if not math.isfinite(best.margin):
        error = DocumentError("not_finite", f"the model answered {best.margin}: its weights or dtype do not fit")
        return RankedDocument(index, document, truncation=truncation, error=error)
    return RankedDocument(index, document, None, best.score, best.margin, best.label_mass, truncation=truncation)


def _chosen(ranked: Sequence[RankedDocument], request: RerankRequest) -> tuple[RankedDocument, ...]:
    """What the caller asked to see. Documents in error are always seen."""
    scored = [row for row in ranked if row.error is None and (row.score or 0.0) >= (request.min_score or 0.0)]
    return (*scored[: request.top_n], *(row for row in ranked if row.error))


def _usage(read: LabelRead | DocumentError) -> Usage:
    return Usage(read.prompt_tokens, read.cached_tokens) if isinstance(read, LabelRead) else Usage()


async def _in_order(ask: Callable[[int], Awaitable[T]], count: int) -> list[T]:
    answers: dict[int, T] = {}
    async with aclosing(as_answered(ask, count, _REQUESTS_AT_ONCE)) as answered:
        async for index, answer in answered:
            answers[index] = answer
    return [answers[index] for index in range(count)]
