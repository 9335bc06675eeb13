"""A request of more documents than a server takes at once: in which parts it is asked, and one ranking of their answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from whyrank.errors import MixedModels, PermanentError, WhyrankError
from whyrank.ranking import Ranking, apply_cutoffs, sort_rows
from whyrank.request import RerankRequest
from whyrank.types import DocumentError, Evidence, Finish, RankedDocument, Usage

__all__ = [
    "SAME_MODEL_ATTEMPTS",
    "Served",
    "evidence_request",
    "mixed_models",
    "odd_ones",
    "parts_of",
    "rejoined",
    "score_request",
    "served_by",
    "with_evidence",
]

T = TypeVar("T", bound=Hashable)

Served = tuple[str, str]
"""Model and prompt."""

SAME_MODEL_ATTEMPTS = 3
"""Servers may be replaced one by one while a call is under way: then all of its rows are asked of the new model."""


def parts_of(sizes: Sequence[int], most: int, max_bytes: int) -> Iterator[range]:
    """Places of documents of these sizes. Every part has at least one."""
    start = size = 0
    for place, own in enumerate(sizes):
        size += own
        if place > start and (place - start == most or size > max_bytes):
            yield range(start, place)
            start, size = place, own
    if sizes:
        yield range(start, len(sizes))


def score_request(request: RerankRequest, part: range) -> RerankRequest:
    """For every score of this part."""
    documents = request.documents[part.start : part.stop]
    return replace(request, documents=documents, mode="score", top_n=None, min_score=None)


def rejoined(request: RerankRequest, answers: Mapping[range, Ranking | WhyrankError]) -> Ranking:
    """Raises where nothing was answered, or where the request is at fault."""
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
    """For evidence of each of these. They are scored once more on the way, from the cache."""
    documents = tuple(row.document for row in chosen)
    return replace(request, documents=documents, top_n=None, min_score=None, evidence_min_score=0.0)


def with_evidence(
    ranking: Ranking, chosen: Sequence[RankedDocument], answer: Ranking | None, otherwise: Finish
) -> Ranking:
    """`otherwise`: how the evidence ended that is not in the answer."""
    evidence = {row.index: Evidence("", "", otherwise) for row in chosen}
    usage = evidence_usage = Usage()
    if answer is not None:
        _served([ranking, answer])
        evidence |= {chosen[row.index].index: row.evidence for row in answer.results if row.evidence is not None}
        usage, evidence_usage = answer.usage, answer.evidence_usage
    results = tuple(replace(row, evidence=evidence.get(row.index)) for row in ranking.results)
    return replace(ranking, results=results, usage=ranking.usage + usage, evidence_usage=evidence_usage)


def served_by(ranking: Ranking) -> Served:
    return ranking.model, ranking.prompt


def odd_ones(served: Mapping[T, Served], kept: Served | None) -> list[T]:
    """What must be asked again before one ranking can be made: whatever another model answered than `kept`, or than most."""
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
