"""What OpenAPI tells of the routes: shapes of answers and errors, and an example of each request.

Answers are never built from these models, which would cost time at a thousand documents; tests hold answers against them.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from operator import or_
from typing import Any

from fastapi import Body
from fastapi.openapi.models import Example
from fastapi.security import HTTPBearer
from pydantic import BaseModel, Field

from whyrank.wire import ErrorBody, RankingBody, ResultBody, TruncationBody, UsageBody

__all__ = [
    "BatchAnswer",
    "CohereAnswer",
    "CohereV1Answer",
    "FormatsAnswer",
    "HealthAnswer",
    "JinaAnswer",
    "ManyAnswer",
    "RerankAnswer",
    "ScoreAnswer",
    "TeiResult",
    "VersionAnswer",
    "VoyageAnswer",
    "answered",
    "api_key",
    "errors",
    "request_example",
    "with_headers",
]

api_key = HTTPBearer(auto_error=False, description="The server's --api-key, if it has one.")
"""Only for the page that shows OpenAPI: what guards routes is in guarded_route.py."""


# Answers.


class TextBody(BaseModel):
    text: str
    id: str = ""
    title: str = ""


class TotalUsage(UsageBody):
    total_tokens: int


class RerankResult(ResultBody):
    relevance_score: float = 0
    document: TextBody | None = None


class RerankAnswer(RankingBody):
    """`warnings` names keys that were ignored."""

    id: str
    object: str
    results: list[RerankResult]  # type: ignore[assignment]
    usage: TotalUsage
    warnings: list[str] = Field(default_factory=list)


class Fault(BaseModel):
    message: str
    type: str
    param: None
    code: int
    request_id: str


class FailedAnswer(BaseModel):
    error: Fault


class ManyAnswer(BaseModel):
    id: str
    object: str
    rankings: list[RerankAnswer | FailedAnswer]


class BatchAnswer(BaseModel):
    id: str
    object: str
    answers: list[RerankAnswer | FailedAnswer]


class ScoreRow(BaseModel):
    index: int
    object: str
    score: float | None
    margin: float | None
    label_mass: float | None
    truncation: TruncationBody | None
    neutralised: bool
    error: ErrorBody | None


class ScoreAnswer(BaseModel):
    """`scores`, of a grid: a row for each query."""

    id: str
    object: str
    created: int
    model: str
    data: list[ScoreRow]
    usage: TotalUsage
    scores: list[list[float | None]] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)


class FormatsAnswer(BaseModel):
    served: str
    writes_evidence: bool
    formats: list[dict[str, Any]]


class VersionAnswer(BaseModel):
    version: str = Field("", description="vLLM's. Absent where a model needs no vLLM.")
    whyrank: str


class Canary(BaseModel):
    margin: float | None
    expected: float | None


class HealthAnswer(BaseModel):
    status: str
    canary: Canary


class _Extras(BaseModel):
    contribution: str = ""
    evidence: str = ""
    finish: str = ""
    grounding: dict[str, Any] | None = None


class Span(BaseModel):
    start: int
    end: int
    score: float


class CohereResult(_Extras):
    index: int
    relevance_score: float
    relevant_spans: list[Span] = Field(default_factory=list)


class CohereV1Result(_Extras):
    index: int
    relevance_score: float
    document: dict[str, Any] = Field(default_factory=dict)


class CohereAnswer(BaseModel):
    id: str
    results: list[CohereResult]
    meta: dict[str, Any]


class CohereV1Answer(BaseModel):
    id: str
    results: list[CohereV1Result]
    meta: dict[str, Any]


class TotalTokens(BaseModel):
    total_tokens: int


class JinaResult(_Extras):
    index: int
    relevance_score: float
    document: TextBody | None = None


class JinaAnswer(BaseModel):
    model: str
    object: str
    usage: TotalTokens
    results: list[JinaResult]


class VoyageResult(_Extras):
    index: int
    relevance_score: float
    document: str = ""


class VoyageAnswer(BaseModel):
    object: str
    data: list[VoyageResult]
    model: str
    usage: TotalTokens


class TeiResult(_Extras):
    index: int
    score: float
    text: str = ""


# Errors.


class NativeError(BaseModel):
    error: Fault
    message: str
    detail: str


class CohereError(BaseModel):
    id: str
    message: str


class DetailError(BaseModel):
    detail: str


class TeiError(BaseModel):
    error: str
    error_type: str


_ERRORS = {"native": NativeError, "cohere": CohereError, "detail": DetailError, "tei": TeiError}
_TOLD = {
    401: "No API key, or not one of the server's.",
    413: "Too many documents, or texts or a body too long: the message names the limit.",
    429: "The server has enough to do: come back after as many seconds as Retry-After says.",
    500: "Something went wrong in the server; its log has it under the request's id.",
    503: "The engine is gone or paused. Retry-After says when a new one may be there.",
}


def _any_of(models: Iterable[Any]) -> Any:
    return reduce(or_, models)


def errors(*styles: str) -> dict[int | str, dict[str, Any]]:
    """The errors of a router, in its own style and in those of the other dialects that it answers."""
    body = _any_of(_ERRORS[style] for style in styles)
    # FastAPI documents a 422 of its own for whoever does not.
    described = {400: "The request makes no sense: the message names the fault.", 422: "The same, where TEI is spoken."}
    return {status: {"model": body, "description": text} for status, text in (described | _TOLD).items()}


_EVENT = {
    "type": "object",
    "description": "One event of the stream.",
    "required": ["event", "data"],
    "properties": {
        "event": {"enum": ["score", "ranking", "delta", "evidence", "done", "error"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}
_STREAM = {"text/event-stream": {"schema": _EVENT, "example": 'event: score\ndata: {"index": 0}\n\n'}}


_ROW_HEADERS = {
    "X-Whyrank-Truncated": "Indexes of documents that were scored by a part of their text; at most a hundred, then `...`.",
    "X-Whyrank-Failed": "Indexes of documents that have no score and are left out, in the same way.",
}


def answered(*models: Any, streams: bool = False) -> dict[int | str, dict[str, Any]]:
    """The good answers of a route."""
    body = {"model": _any_of(models)} if models else {}
    return {200: body | {"description": "Best first.", "content": _STREAM if streams else {}}}


def with_headers(*models: Any, streams: bool = False) -> dict[int | str, dict[str, Any]]:
    """The same where rows have a shape that is not ours, and headers tell what they cannot."""
    headers = {name: {"description": text, "schema": {"type": "string"}} for name, text in _ROW_HEADERS.items()}
    return {200: answered(*models, streams=streams)[200] | {"headers": headers}}


# Requests.

_QUERY = "At what temperature does water boil?"
_TEXTS = ["Water boils at 100 °C at sea level.", "Everest is 8849 metres high."]
_RERANK = {"query": _QUERY, "documents": _TEXTS}
_EXAMPLES: dict[str, dict[str, dict[str, Any]]] = {
    "rerank": {
        "Strings": _RERANK,
        "Objects": {"query": _QUERY, "documents": [{"id": "a", "title": "Water", "text": _TEXTS[0]}], "top_n": 1},
        "Evidence": _RERANK | {"mode": "evidence", "evidence_top_n": 1, "deadline_ms": 2000},
        "Several queries": {"queries": [_QUERY, "How high is Everest?"], "documents": _TEXTS},
    },
    "stream": {"Evidence as it is written": _RERANK | {"mode": "evidence", "evidence_min_score": 0}},
    "batch": {"Two": {"requests": [_RERANK, {"query": "How high is Everest?", "documents": _TEXTS}]}},
    "score": {
        "One with many": {"queries": _QUERY, "documents": _TEXTS},
        "Pairs": {"queries": [_QUERY, "How high is Everest?"], "documents": _TEXTS},
        "Grid": {"queries": [_QUERY, "How high is Everest?"], "documents": _TEXTS, "grid": True},
    },
    "bare": {"Text Embeddings Inference": {"query": _QUERY, "texts": _TEXTS}, "vLLM": _RERANK},
    "cohere": {
        "Documents": _RERANK | {"model": "any", "top_n": 1, "max_tokens_per_doc": 4096},
        "Spans": _RERANK | {"relevant_spans": {"mode": "enabled", "max_spans": 2}},
    },
    "cohere_v1": {
        "Fields": {
            "query": _QUERY,
            "documents": [{"title": "Water", "body": _TEXTS[0]}],
            "rank_fields": ["title", "body"],
            "return_documents": True,
        }
    },
    "jina": {"Documents": {"model": "any", "query": _QUERY, "documents": [_TEXTS[0], {"text": _TEXTS[1]}]}},
    "voyage": {"Documents": _RERANK | {"model": "any", "top_k": 1, "truncation": True}},
    "tei": {"Texts": {"query": _QUERY, "texts": _TEXTS, "return_text": True}},
}


def request_example(name: str) -> Any:
    """The body of a route, with its examples."""
    return Body(openapi_examples={title: Example(value=value) for title, value in _EXAMPLES[name].items()})
