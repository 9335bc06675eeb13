"""OpenTelemetry spans, where vLLM's --otlp-traces-endpoint sets up tracing; without it they cost nothing.

A span for the request, and within it "score" until all documents have their scores, prompts included, then "explain" until the
evidence is there, its checks included. vLLM's own span of each prompt is within the request's. Counts and results, no texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import propagate, trace

from whyrank.events import Event, Finished, Ranked
from whyrank.ranking import Ranking
from whyrank.request import RerankRequest

__all__ = ["RankingSpans", "request_span"]

_tracer = trace.get_tracer("whyrank")


@contextmanager
def request_span(method: str, path: str, headers: Mapping[str, str]) -> Iterator[trace.Span]:
    """Until the response, or the first event of a stream. Continues the caller's trace where `traceparent` names one."""
    context, kind = propagate.extract(headers), trace.SpanKind.SERVER
    attributes = {"http.request.method": method, "http.route": path}
    with _tracer.start_as_current_span(f"{method} {path}", context, kind, attributes) as span:
        yield span


class RankingSpans:
    """The spans of one ranking, within that of the current request."""

    def __init__(self, request: RerankRequest) -> None:
        self._explains = request.mode != "score"
        count = len(request.documents)
        self._span = _tracer.start_span("score", attributes={"whyrank.documents": count, "whyrank.mode": request.mode})

    def observe(self, event: Event) -> None:
        match event:
            case Ranked(ranking):
                self._span.set_attributes(_counts(ranking))
                if self._explains:
                    self._span.end()
                    self._span = _tracer.start_span("explain")
            case Finished(ranking) if self._explains:
                explained = sum(row.evidence is not None or bool(row.spans) for row in ranking.results)
                tokens = ranking.evidence_usage
                self._span.set_attributes(
                    {"whyrank.explained": explained, "whyrank.output_tokens": tokens.output_tokens}
                )

    def end(self) -> None:
        self._span.end()


def _counts(ranking: Ranking) -> dict[str, int]:
    return {
        "whyrank.failed": sum(row.error is not None for row in ranking.results),
        "whyrank.prompt_tokens": ranking.usage.prompt_tokens,
        "whyrank.cached_tokens": ranking.usage.cached_tokens,
    }
