"""Cohere's rerank API, versions 2 and 1."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from fastapi import Request, Response
from pydantic import Field
from typing_extensions import TypedDict

from whyrank.ranking import Ranking
from whyrank.request import RerankOptions, RerankRequest
from whyrank.serving.compat import rows
from whyrank.serving.context import request_id
from whyrank.serving.examples import QUERY, RERANK, TEXTS, examples
from whyrank.serving.guarded_route import ErrorStyle, new_router
from whyrank.serving.handlers import rank, warnings_of
from whyrank.types import RankedDocument
from whyrank.wire.requests import FieldNames, LenientModel, documents_of
from whyrank.wire.responses import EvidenceResponse

__all__ = ["CohereMeta", "cohere_meta", "router"]


class CohereError(TypedDict):
    id: str
    message: str


def cohere_error(status: int, kind: str, message: str, request_id: str) -> CohereError:
    return {"id": request_id, "message": f"invalid request: {message}" if status == 400 else message}


router = new_router("Cohere", ErrorStyle(cohere_error, CohereError))


class CohereSpan(TypedDict):
    start: int
    end: int
    score: float


class CohereRow(EvidenceResponse):
    """`document` in version 1, `relevant_spans` in version 2, where they were asked for."""

    document: NotRequired[dict[str, Any]]
    index: int
    relevance_score: float
    relevant_spans: NotRequired[list[CohereSpan]]


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


def cohere_meta(version: str, ranking: Ranking, warnings: list[str]) -> CohereMeta:
    usage = ranking.usage
    meta: CohereMeta = {
        "api_version": {"version": version, "is_experimental": False},
        "billed_units": {"search_units": 1},
        "tokens": {"input_tokens": usage.prompt_tokens, "output_tokens": usage.output_tokens},
        "cached_tokens": usage.cached_tokens,
    }
    if warnings := warnings + rows.error_warnings(ranking) + rows.cut_warnings(ranking):
        meta["warnings"] = warnings
    return meta


# Version 2.

_MAX_SPANS = 10
# Spans are scores of sentences: those of a thousand documents would be tens of thousands of prompts.
_MAX_DOCUMENTS_WITH_SPANS = 50


class RelevantSpans(LenientModel):
    """Cohere's own, of Rerank v5: where in a document the answer stands. Served by mode "spans", or in mode "evidence" by what
    the evidence rests on."""

    mode: Literal["enabled", "disabled"]
    threshold: float | None = Field(None, ge=0, le=1, description="Minimum score of a span; 0.1 by default.")
    max_spans: int | None = Field(None, ge=0)

    @property
    def min_score(self) -> float:
        return 0.1 if self.threshold is None else self.threshold

    def options(self, documents: int) -> RerankOptions:
        return {
            "mode": "spans",
            "span_min_score": self.min_score,
            "max_spans": self.max_spans or _MAX_SPANS,
            "evidence_top_n": min(documents, _MAX_DOCUMENTS_WITH_SPANS),
            "evidence_min_score": 0.0,
        }

    def of(self, row: RankedDocument) -> list[CohereSpan]:
        spans: list[CohereSpan] = [{"start": one.start, "end": one.end, "score": one.score} for one in row.spans or ()]
        if row.evidence is not None and row.evidence.grounding is not None:
            similar = [span for span in row.evidence.grounding.spans if span.similarity >= self.min_score]
            best = sorted(similar, key=lambda span: -span.similarity)
            spans = [{"start": span.start, "end": span.end, "score": span.similarity} for span in best]
        return spans[: self.max_spans]


class CohereRequest(rows.DialectRequest):
    relevant_spans: RelevantSpans | None = Field(
        None, description='If enabled, mode "spans" applies unless the body sets another one.'
    )
    priority: int | None = Field(None, description="Accepted and ignored.")

    @property
    def spans(self) -> RelevantSpans | None:
        return self.relevant_spans if self.relevant_spans and self.relevant_spans.mode == "enabled" else None

    def to_request(self) -> RerankRequest:
        options = self.options()
        if self.spans:
            options = {**self.spans.options(options.get("top_n") or len(self.documents)), **options}
        return RerankRequest.of(self.query, documents_of(self.documents), **options)


def cohere_response(body: CohereRequest, ranking: Ranking, raw: Request) -> CohereResponse:
    results: list[CohereRow] = []
    for row, score in rows.scored(ranking):
        result: CohereRow = {"index": row.index, "relevance_score": score}
        if spans := body.spans.of(row) if body.spans else []:
            result["relevant_spans"] = spans
        results.append({**result, **rows.evidence_of(row)})
    return {"id": request_id(raw), "results": results, "meta": cohere_meta("2", ranking, warnings_of(body, raw))}


_EXAMPLES = examples(
    {
        "Documents": RERANK | {"top_n": 1, "max_tokens_per_doc": 4096},
        "Spans": RERANK | {"relevant_spans": {"mode": "enabled", "max_spans": 2}},
    }
)


@router.post("/v2/rerank", summary="Cohere's v2", response_model=CohereResponse, responses=rows.IN_OPENAPI)
@router.post("/cohere/v2/rerank", summary="Cohere's v2", response_model=CohereResponse, responses=rows.IN_OPENAPI)
async def rerank(body: Annotated[CohereRequest, _EXAMPLES], raw: Request) -> Response:
    """For Cohere's clients at their version 2; options of whyrank are taken and its evidence is given as extra keys."""
    ranking = await rank(body, raw)
    return rows.RowsResponse(cohere_response(body, ranking, raw), ranking)


# Version 1.


class CohereV1Request(rows.DialectRequest):
    rank_fields: FieldNames | None = Field(None, description="The fields to read of objects; by default their text.")
    return_documents: bool | None = None
    max_chunks_per_doc: int | None = Field(
        None, description="Accepted and ignored; use truncation: windows to have the whole document read."
    )

    def to_request(self) -> RerankRequest:
        fields = self.rank_fields or ["text"]
        return RerankRequest.of(self.query, documents_of(self.documents, fields), **self.options())


def cohere_v1_response(body: CohereV1Request, ranking: Ranking, raw: Request) -> CohereResponse:
    results: list[CohereRow] = []
    for row, score in rows.scored(ranking):
        result: CohereRow = {"index": row.index, "relevance_score": score}
        if body.return_documents:
            given = body.documents[row.index]
            result = {"document": {"text": given} if isinstance(given, str) else given, **result}
        results.append({**result, **rows.evidence_of(row)})
    return {"id": request_id(raw), "results": results, "meta": cohere_meta("1", ranking, warnings_of(body, raw))}


_V1_DOCUMENTS = [{"title": "Water", "body": TEXTS[0]}]
_V1_FIELDS = {"documents": _V1_DOCUMENTS, "rank_fields": ["title", "body"], "return_documents": True}
_V1_EXAMPLES = examples({"Fields": {"query": QUERY, **_V1_FIELDS}})


@router.post("/cohere/v1/rerank", summary="Cohere's v1", response_model=CohereResponse, responses=rows.IN_OPENAPI)
async def rerank_v1(body: Annotated[CohereV1Request, _V1_EXAMPLES], raw: Request) -> Response:
    """For Cohere's clients at their version 1: documents may be objects, of which `rank_fields` are read."""
    ranking = await rank(body, raw)
    return rows.RowsResponse(cohere_v1_response(body, ranking, raw), ranking)
