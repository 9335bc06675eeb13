"""Cohere's rerank API, versions 2 and 1."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from fastapi import Body, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from whyrank.ranking import Ranking
from whyrank.request import RerankRequest
from whyrank.serving.compat.rows import (
    ROWS_RESPONSE,
    RowsResponse,
    cut_warnings,
    error_warnings,
    evidence_of,
    scored_rows,
)
from whyrank.serving.context import request_id
from whyrank.serving.guarded_route import ErrorStyle, new_router
from whyrank.serving.handlers import rank
from whyrank.types import RankedDocument
from whyrank.wire import Documents, EvidenceResponse, FieldNames, OptionsRequest, documents_of

__all__ = [
    "CohereRequest",
    "CohereResponse",
    "CohereV1Request",
    "CohereV1Response",
    "RelevantSpans",
    "cohere_error",
    "cohere_response",
    "cohere_v1_response",
    "router",
]

# Of the similarity of a span and its evidence.
_SPAN_THRESHOLD = 0.1


class RelevantSpans(BaseModel):
    """Cohere's own, of Rerank v5: here what the evidence of a document rests on."""

    model_config = ConfigDict(strict=True)

    mode: Literal["enabled", "disabled"]
    threshold: float | None = Field(None, description="Of the similarity of a span and its evidence; 0.1 by default.")
    max_spans: int | None = Field(None, ge=0)


class CohereRequest(OptionsRequest):
    """POST /v2/rerank."""

    model: str | None = None
    query: str
    documents: Documents
    relevant_spans: RelevantSpans | None = Field(None, description='Enabled, it means mode "evidence".')
    priority: int | None = Field(None, description="Accepted; calls take turns.")

    @property
    def count(self) -> int:
        return len(self.documents)

    @property
    def spans(self) -> RelevantSpans | None:
        return self.relevant_spans if self.relevant_spans and self.relevant_spans.mode == "enabled" else None

    def to_request(self) -> RerankRequest:
        options = self.options()
        if self.spans:
            options["mode"] = "evidence"
        return RerankRequest.of(self.query, documents_of(self.documents), **options)


class CohereV1Request(OptionsRequest):
    """POST /v1/rerank of old: documents may be objects, of which `rank_fields` are read."""

    model: str | None = None
    query: str
    documents: Documents
    rank_fields: FieldNames | None = None
    return_documents: bool | None = None
    max_chunks_per_doc: int | None = Field(
        None, description="Accepted; say truncation: windows to have all of it read."
    )

    @property
    def count(self) -> int:
        return len(self.documents)

    def to_request(self) -> RerankRequest:
        return RerankRequest.of(self.query, documents_of(self.documents, self.rank_fields), **self.options())


class CohereSpan(TypedDict):
    start: int
    end: int
    score: float


class CohereRow(EvidenceResponse):
    index: int
    relevance_score: float
    relevant_spans: NotRequired[list[CohereSpan]]


class CohereV1Row(EvidenceResponse):
    document: NotRequired[dict[str, Any]]
    index: int
    relevance_score: float


class CohereMeta(TypedDict):
    api_version: dict[str, Any]
    billed_units: dict[str, int]
    tokens: dict[str, int]
    cached_tokens: int
    warnings: NotRequired[list[str]]


class CohereResponse(TypedDict):
    id: str
    results: list[CohereRow]
    meta: CohereMeta


class CohereV1Response(TypedDict):
    id: str
    results: list[CohereV1Row]
    meta: CohereMeta


class CohereError(TypedDict):
    id: str
    message: str


def cohere_response(body: CohereRequest, ranking: Ranking, request_id: str) -> CohereResponse:
    results: list[CohereRow] = []
    for row, score in scored_rows(ranking):
        result: CohereRow = {"index": row.index, "relevance_score": score}
        if spans := _spans(body.spans, row):
            result["relevant_spans"] = spans
        results.append({**result, **evidence_of(row)})
    return {"id": request_id, "results": results, "meta": _meta("2", body, ranking)}


def _spans(wanted: RelevantSpans | None, row: RankedDocument) -> list[CohereSpan]:
    grounding = row.evidence.grounding if row.evidence else None
    if wanted is None or grounding is None:
        return []
    threshold = _SPAN_THRESHOLD if wanted.threshold is None else wanted.threshold
    similar = (span for span in grounding.spans if span.similarity >= threshold)
    best = sorted(similar, key=lambda span: -span.similarity)[: wanted.max_spans]
    return [{"start": span.start, "end": span.end, "score": span.similarity} for span in best]


def cohere_v1_response(body: CohereV1Request, ranking: Ranking, request_id: str) -> CohereV1Response:
    results: list[CohereV1Row] = []
    for row, score in scored_rows(ranking):
        result: CohereV1Row = {"index": row.index, "relevance_score": score}
        if body.return_documents:
            given = body.documents[row.index]
            result = {"document": {"text": given} if isinstance(given, str) else given, **result}
        results.append({**result, **evidence_of(row)})
    return {"id": request_id, "results": results, "meta": _meta("1", body, ranking)}


def _meta(version: str, body: OptionsRequest, ranking: Ranking) -> CohereMeta:
    usage = ranking.usage
    meta: CohereMeta = {
        "api_version": {"version": version, "is_experimental": False},
        "billed_units": {"search_units": 1},
        "tokens": {"input_tokens": usage.prompt_tokens, "output_tokens": usage.output_tokens},
        "cached_tokens": usage.cached_tokens,
    }
    if warnings := body.unknown_keys() + error_warnings(ranking) + cut_warnings(ranking):
        meta["warnings"] = warnings
    return meta


def cohere_error(status: int, kind: str, message: str, request_id: str) -> CohereError:
    return {"id": request_id, "message": f"invalid request: {message}" if status == 400 else message}


router = new_router("Cohere", ErrorStyle(cohere_error, CohereError))

_QUERY = "At what temperature does water boil?"
_TEXTS = ["Water boils at 100 °C at sea level.", "Everest is 8849 metres high."]
_RERANK = {"query": _QUERY, "documents": _TEXTS}
_SPANS = _RERANK | {"relevant_spans": {"mode": "enabled", "max_spans": 2}}
_V1 = {"query": _QUERY, "documents": [{"title": "Water", "body": _TEXTS[0]}], "rank_fields": ["title", "body"]}
_V2_EXAMPLES = Body(
    openapi_examples={
        "Documents": {"value": _RERANK | {"model": "any", "top_n": 1, "max_tokens_per_doc": 4096}},
        "Spans": {"value": _SPANS},
    }
)
_V1_EXAMPLES = Body(openapi_examples={"Fields": {"value": _V1 | {"return_documents": True}}})


@router.post("/v2/rerank", summary="Cohere's v2", response_model=CohereResponse, responses=ROWS_RESPONSE)
@router.post("/cohere/v2/rerank", include_in_schema=False)
async def rerank(body: Annotated[CohereRequest, _V2_EXAMPLES], raw: Request) -> Response:
    """For Cohere's clients at their version 2; options of whyrank are taken and its evidence is given as extra keys."""
    ranking = await rank(body, raw)
    return RowsResponse(cohere_response(body, ranking, request_id(raw)), ranking)


@router.post("/cohere/v1/rerank", summary="Cohere's v1", response_model=CohereV1Response, responses=ROWS_RESPONSE)
async def rerank_v1(body: Annotated[CohereV1Request, _V1_EXAMPLES], raw: Request) -> Response:
    """For Cohere's clients at their version 1: documents may be objects, of which `rank_fields` are read."""
    ranking = await rank(body, raw)
    return RowsResponse(cohere_v1_response(body, ranking, request_id(raw)), ranking)
