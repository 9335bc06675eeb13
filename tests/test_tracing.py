"""OpenTelemetry spans: the caller's trace goes on through the request, its scoring and its evidence, and no text is in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from inprocess import InProcess, prism_plan
from whyrank.runtimes.vllm_compat import trace_headers

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
EVIDENCE = {"mode": "evidence", "evidence_min_score": 0, "evidence_top_n": 2}


@pytest.fixture(scope="module")
def recorded() -> InMemorySpanExporter:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture
def exporter(recorded: InMemorySpanExporter) -> InMemorySpanExporter:
    recorded.clear()
    return recorded


def spans_of(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def ask(server: InProcess, path: str = "/v1/rerank", **body: Any) -> int:
    headers = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
    async with server.client(**headers) as http:
        answer = await http.post(path, json={"query": "a private query", "documents": ["a secret", "two"], **body})
    return answer.status_code


@pytest.mark.parametrize("path", ["/v1/rerank", "/v1/rerank/stream"])
async def test_a_request_its_scoring_and_its_evidence(
    checkpoint: Callable[[str], Path], exporter: InMemorySpanExporter, path: str
) -> None:
    server = InProcess(prism_plan(checkpoint("qwen3")))
    assert await ask(server, path, **EVIDENCE) == 200
    spans = spans_of(exporter)
    assert spans.keys() == {f"POST {path}", "score", "explain"}
    request = spans[f"POST {path}"]
    assert request.parent is not None and f"{request.parent.span_id:016x}" == CALLER
    assert attributes(request)["http.response.status_code"] == 200
    for name in ("score", "explain"):
        parent = spans[name].parent
        assert request.context is not None and parent is not None and parent.span_id == request.context.span_id
        assert f"{parent.trace_id:032x}" == TRACE
    score, explain = attributes(spans["score"]), attributes(spans["explain"])
    assert (score["whyrank.documents"], score["whyrank.failed"], score["whyrank.mode"]) == (2, 0, "evidence")
    assert score["whyrank.prompt_tokens"] > 0 and explain["whyrank.explained"] == 2
    assert explain["whyrank.output_tokens"] > 0
    written = " ".join(span.to_json() for span in spans.values())
    assert "secret" not in written and "private" not in written


async def test_scores_alone_and_a_refusal(checkpoint: Callable[[str], Path], exporter: InMemorySpanExporter) -> None:
    server = InProcess(prism_plan(checkpoint("qwen3")))
    assert await ask(server) == 200
    assert spans_of(exporter).keys() == {"POST /v1/rerank", "score"}
    exporter.clear()
    assert await ask(server, documents=[]) == 400
    (refused,) = exporter.get_finished_spans()
    assert attributes(refused)["http.response.status_code"] == 400 and "private" not in json.dumps(refused.to_json())


def test_what_vllm_is_given(exporter: InMemorySpanExporter) -> None:
    assert trace_headers() is None
    with trace.get_tracer("test").start_as_current_span("request") as span:
        headers, context = trace_headers() or {}, span.get_span_context()
        assert headers["traceparent"].startswith(f"00-{context.trace_id:032x}-{context.span_id:016x}-")
