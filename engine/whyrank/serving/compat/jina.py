"""Jina's reranker API."""

from __future__ import annotations

from typing import Annotated, NotRequired

from fastapi import Body, Request, Response
from typing_extensions import TypedDict

from whyrank.ranking import Ranking
from whyrank.request import RerankRequest
from whyrank.serving.compat.rows import (
    ROWS_RESPONSE,
    RowsResponse,
    TextDocument,
    TotalTokens,
    evidence_of,
    scored_rows,
    total_tokens,
)
from whyrank.serving.guarded_route import ErrorStyle, new_router
from whyrank.serving.handlers import rank
from whyrank.wire import Documents, EvidenceResponse, OptionsRequest, documents_of

__all__ = ["JinaRequest", "JinaResponse", "jina_error", "jina_response", "router"]


class JinaRequest(OptionsRequest):
    model: str | None = None
    query: str
    documents: Documents
    return_documents: bool = True

    @property
    def count(self) -> int:
        return len(self.documents)

    def to_request(self) -> RerankRequest:
        return RerankRequest.of(self.query, documents_of(self.documents), **self.options())


class JinaRow(EvidenceResponse):
    index: int
    relevance_score: float
    document: NotRequired[TextDocument]


class JinaResponse(TypedDict):
    model: str
    object: str
    usage: TotalTokens
    results: list[JinaRow]


class JinaError(TypedDict):
    detail: str


def jina_response(body: JinaRequest, ranking: Ranking) -> JinaResponse:
    results: list[JinaRow] = []
    for row, score in scored_rows(ranking):
        result: JinaRow = {"index": row.index, "relevance_score": score}
        if body.return_documents:
            result["document"] = {"text": row.document.text}
        results.append({**result, **evidence_of(row)})
    return {"model": ranking.model, "object": "list", "usage": total_tokens(ranking), "results": results}


def jina_error(status: int, kind: str, message: str, request_id: str) -> JinaError:
    return {"detail": message}


router = new_router("Jina", ErrorStyle(jina_error, JinaError))

_TEXTS = ["Water boils at 100 °C at sea level.", "Everest is 8849 metres high."]
_EXAMPLE = {
    "model": "any",
    "query": "At what temperature does water boil?",
    "documents": [_TEXTS[0], {"text": _TEXTS[1]}],
}


@router.post("/jina/v1/rerank", summary="Jina's", response_model=JinaResponse, responses=ROWS_RESPONSE)
async def rerank(
    body: Annotated[JinaRequest, Body(openapi_examples={"Documents": {"value": _EXAMPLE}})], raw: Request
) -> Response:
    """Jina's shape and nothing more; /v1/rerank has all its keys as well."""
    ranking = await rank(body, raw)
    return RowsResponse(jina_response(body, ranking), ranking)
