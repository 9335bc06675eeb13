"""whyrank_* in the process's Prometheus registry, beside vLLM's own."""

from __future__ import annotations

from collections.abc import Collection

from prometheus_client import Counter, Gauge, Histogram

from whyrank.ranking import Ranking
from whyrank.types import RankedDocument

__all__ = [
    "count_document",
    "count_explained",
    "count_ranking",
    "count_request",
    "in_flight",
    "observe_first_score",
    "observe_last_evidence",
    "refused",
]

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

_requests = Counter("whyrank_requests", "Requests by route and HTTP status.", ["route", "status"])
_documents = Counter("whyrank_documents", "Documents answered, by outcome.", ["outcome"])
_prompt_tokens = Counter("whyrank_prompt_tokens", "Prompt tokens, from the cache or computed.", ["source"])
_output_tokens = Counter("whyrank_output_tokens", "Tokens written as contribution and evidence.")
_truncated = Counter("whyrank_truncated_documents", "Documents that were not read in full.")
_neutralised = Counter("whyrank_neutralised_documents", "Documents read with control-token text as plain text.")
_evidence = Counter("whyrank_evidence", "Continuations, by how they ended.", ["finish"])
_ungrounded = Counter("whyrank_ungrounded_evidence", "Evidence with a claim that its document does not support.")
_explained = Counter(
    "whyrank_explained", "Evidence on several engines, by whether its engine had read the document.", ["where"]
)
_rejections = Counter("whyrank_rejections", "Requests that were refused, by reason.", ["reason"])
_first_score = Histogram("whyrank_first_score_seconds", "Until the first score of a request.", buckets=_SECONDS)
_last_evidence = Histogram("whyrank_last_evidence_seconds", "Until the last evidence of a request.", buckets=_SECONDS)

_in_flight = Gauge("whyrank_documents_in_flight", "Documents in progress.", multiprocess_mode="livesum")


def in_flight(change: int) -> None:
    _in_flight.inc(change)


def count_request(route: str, status: int) -> None:
    _requests.labels(route, str(status)).inc()


def refused(reason: str) -> None:
    _rejections.labels(reason).inc()


def observe_first_score(seconds: float) -> None:
    _first_score.observe(seconds)


def observe_last_evidence(seconds: float) -> None:
    _last_evidence.observe(seconds)


def count_explained(where_it_was_read: bool) -> None:
    _explained.labels("same" if where_it_was_read else "other").inc()


def count_ranking(ranking: Ranking, counted: Collection[int]) -> None:
    """Counts what is known at the end. `counted`: documents that were already counted when scored, whether returned or not."""
    for row in ranking.results:
        if row.index not in counted:
            count_document(row)
        if row.evidence is not None:
            _evidence.labels(row.evidence.finish).inc()
            _ungrounded.inc(row.evidence.grounding is not None and bool(row.evidence.grounding.unsupported))
    _prompt_tokens.labels("cached").inc(ranking.usage.cached_tokens)
    _prompt_tokens.labels("computed").inc(ranking.usage.computed_tokens)
    _output_tokens.inc(ranking.evidence_usage.output_tokens)


def count_document(row: RankedDocument) -> None:
    _documents.labels(row.error.code if row.error else "scored").inc()
    _truncated.inc(row.truncation is not None and row.truncation.truncated)
    _neutralised.inc(row.neutralised)
