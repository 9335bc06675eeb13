"""A request of more documents than a server takes at once: in which parts it is asked, and one ranking of their answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from whyrank.errors import PermanentError, Unreachable, WhyrankError
from whyrank.prompting.scoring import ranked, shown
from whyrank.ranking import Ranking
from whyrank.requests import RerankRequest
from whyrank.types import DocumentError, Evidence, Finish, RankedDocument, Usage

__all__ = ["evidence_request", "parts_of", "rejoined", "score_request", "with_evidence"]


def parts_of(sizes: Sequence[int], most: int, most_bytes: int) -> Iterator[range]:
    """Places of documents of these sizes. Every part has at least one."""
    start = size = 0
    for place, own in enumerate(sizes):
        size += own
        if place > start and (place - start == most or size > most_bytes):
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
    return Ranking(shown(ranked(rows), request.min_score, request.top_n), usage, model, prompt)


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


def _served(rankings: Sequence[Ranking]) -> tuple[str, str]:
    served = {(ranking.model, ranking.prompt) for ranking in rankings}
    if len(served) > 1:
        raise Unreachable(f"parts of one request were answered by different models: {sorted(served)}")
    return served.pop()
