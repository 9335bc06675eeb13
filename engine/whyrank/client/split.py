"""Splits a request with more documents than a server accepts: it is sent in parts, whose answers become one ranking."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import TypeVar

from whyrank.client.encode import encode_documents
from whyrank.errors import MixedModels, PermanentError, RetryableError, WhyrankError
from whyrank.fan_out import as_completed
from whyrank.ranking import Ranking, apply_cutoffs, select_for_evidence, sort_rows
from whyrank.request import RerankRequest
from whyrank.types import DocumentError, Evidence, Finish, RankedDocument, Usage

__all__ = [
    "MAX_BYTES",
    "MAX_CONCURRENT_PARTS",
    "MAX_DOCUMENTS",
    "SAME_MODEL_ATTEMPTS",
    "Served",
    "mixed_models",
    "odd_ones",
    "rejoined",
    "rerank_in_parts",
    "split",
    "with_evidence",
]

T = TypeVar("T", bound=Hashable)

Served = tuple[str, str]
"""Model and prompt."""

SAME_MODEL_ATTEMPTS = 3
"""Servers may be replaced one by one during a call: then all of its rows are requested from the new model."""


MAX_DOCUMENTS, MAX_BYTES = 256, 8 << 20
"""Limits of one part. Its answer comes when all of it is scored, so parts are not too large."""
MAX_CONCURRENT_PARTS = 8
"""A few parts at a time keep a server busy."""

SendPart = Callable[[RerankRequest, Sequence[bytes]], Awaitable[Ranking]]
"""Sends one request with its documents as JSON, and returns the server's answer."""


def split(documents: Sequence[bytes], max_documents: int = MAX_DOCUMENTS, max_bytes: int = MAX_BYTES) -> list[range]:
    """The index ranges of documents that are sent together. Every part has at least one document."""
    parts, start, size = list[range](), 0, 0
    for place, document in enumerate(documents):
        size += len(document)
        if place > start and (place - start == max_documents or size > max_bytes):
            parts.append(range(start, place))
            start, size = place, len(document)
    return [*parts, range(start, len(documents))] if documents else parts


async def rerank_in_parts(
    request: RerankRequest, documents: Sequence[bytes], parts: Sequence[range], send: SendPart
) -> Ranking:
    """Scores part by part, then evidence for the best of all. `documents`: the request's documents as JSON."""
    try:
        return await _rerank_once(request, documents, parts, send)
    except MixedModels:  # the model was replaced between scores and evidence: start over
        return await _rerank_once(request, documents, parts, send)


async def _rerank_once(
    request: RerankRequest, documents: Sequence[bytes], parts: Sequence[range], send: SendPart
) -> Ranking:
    answers = await _score_parts(request, documents, parts, send)
    kept: Served | None = None
    for _ in range(SAME_MODEL_ATTEMPTS):
        served = {part: served_by(answer) for part, answer in answers.items() if isinstance(answer, Ranking)}
        if not (odd := odd_ones(served, kept)):
            break
        again = await _score_parts(request, documents, odd, send)
        kept = next((served_by(answer) for answer in again.values() if isinstance(answer, Ranking)), kept)
        answers |= again
    ranking = rejoined(request, answers)
    return ranking if request.mode == "score" else await _explain(ranking, request, send)


async def _score_parts(
    request: RerankRequest, documents: Sequence[bytes], parts: Sequence[range], send: SendPart
) -> dict[range, Ranking | WhyrankError]:
    async def score_part(number: int) -> Ranking | WhyrankError:
        part = parts[number]
        try:
            part_request = request.to_score(request.documents[part.start : part.stop])
            return await send(part_request, documents[part.start : part.stop])
        except WhyrankError as error:
            return error

    answers: dict[range, Ranking | WhyrankError] = {}
    async with aclosing(as_completed(score_part, len(parts), MAX_CONCURRENT_PARTS)) as completed:
        async for number, answer in completed:
            answers[parts[number]] = answer
    return answers


async def _explain(ranking: Ranking, request: RerankRequest, send: SendPart) -> Ranking:
    chosen = select_for_evidence(ranking.results, request.evidence_min_score, request.evidence_top_n)
    if not chosen:
        return ranking
    evidence_only = evidence_request(request, chosen)
    documents, answer = encode_documents(evidence_only), None
    with suppress(RetryableError):  # the scores are there already: what is missing is reported in its row
        answer = await send(evidence_only, documents)
        if served_by(answer) != served_by(ranking):
            answer = await send(evidence_only, documents)
    finish: Finish = "error" if request.deadline_ms is None else "deadline"
    return with_evidence(ranking, chosen, answer, finish if request.mode == "evidence" else None)


def rejoined(request: RerankRequest, answers: Mapping[range, Ranking | WhyrankError]) -> Ranking:
    """One ranking from the answers of all parts. Raises if no part was answered, or if the request is at fault."""
    errors = [answer for answer in answers.values() if isinstance(answer, WhyrankError)]
    for error in errors:
        if isinstance(error, PermanentError) or len(errors) == len(answers):
            raise error
    rows: list[RankedDocument] = []
    for part, answer in answers.items():
        if isinstance(answer, Ranking):
            rows += (replace(row, index=part.start + row.index) for row in answer.results)
        else:
            lost = DocumentError("unreachable", str(answer))
            rows += (RankedDocument(index, request.documents[index], error=lost) for index in part)
    rankings = [answer for answer in answers.values() if isinstance(answer, Ranking)]
    model, prompt = _served(rankings)
    usage = sum((ranking.usage for ranking in rankings), Usage())
    return Ranking(apply_cutoffs(sort_rows(rows), request.min_score, request.top_n), usage, model, prompt)


def evidence_request(request: RerankRequest, chosen: Sequence[RankedDocument]) -> RerankRequest:
    """The request for evidence or spans of each of these. The server scores them again on the way, from its cache."""
    documents = tuple(row.document for row in chosen)
    return replace(request, documents=documents, top_n=None, min_score=None, evidence_min_score=0.0)


def with_evidence(
    ranking: Ranking, chosen: Sequence[RankedDocument], answer: Ranking | None, otherwise: Finish | None
) -> Ranking:
    """Adds evidence or spans to the chosen rows. `otherwise`: the finish reason where the answer has no evidence."""
    missing = None if otherwise is None else Evidence("", "", otherwise)
    explained = {row.index: replace(row, evidence=missing) for row in chosen}
    usage = evidence_usage = Usage()
    if answer is not None:
        _served([ranking, answer])
        explained |= {chosen[row.index].index: replace(row, evidence=row.evidence or missing) for row in answer.results}
        usage, evidence_usage = answer.usage, answer.evidence_usage
    results = tuple(
        replace(row, evidence=known.evidence, spans=known.spans, spans_limited=known.spans_limited)
        if (known := explained.get(row.index))
        else row
        for row in ranking.results
    )
    return replace(ranking, results=results, usage=ranking.usage + usage, evidence_usage=evidence_usage)


def served_by(ranking: Ranking) -> Served:
    return ranking.model, ranking.prompt


def odd_ones(served: Mapping[T, Served], kept: Served | None) -> list[T]:
    """The keys to request again, so that one model answers all: those whose model is not `kept`, or not the most common one."""
    kept = kept or next((model for model, _ in Counter(served.values()).most_common(1)), None)
    return [key for key, one in served.items() if one != kept]


def mixed_models(served: Iterable[Served]) -> MixedModels:
    models = " and ".join(sorted(f"{model} with {prompt}" for model, prompt in set(served)))
    return MixedModels(
        f"one request was answered by different models, {models}: give base_url only servers with one model, or try again "
        "when all of them have been replaced"
    )


def _served(rankings: Sequence[Ranking]) -> Served:
    served = {*map(served_by, rankings)}
    if len(served) > 1:
        raise mixed_models(served)
    return served.pop()
