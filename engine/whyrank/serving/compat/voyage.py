"""Voyage's reranker API."""

from __future__ import annotations

from typing import Annotated, NotRequired

from fastapi import Body, Request, Response
from typing_extensions import TypedDict

from whyrank.ranking import Ranking
from whyrank.request import RerankRequest
from whyrank.serving.compat.rows import (
    ROWS_RESPONSE,
    RowsResponse,
    TotalTokens,
    evidence_of,
    scored_rows,
    total_tokens,
)
from whyrank.serving.guarded_route import ErrorStyle, new_router
from whyrank.serving.handlers import rank
from whyrank.wire import EvidenceResponse, OptionsRequest, Strings

__all__ = ["VOYAGE", "VoyageRequest", "VoyageResponse", "router", "voyage_error", "voyage_response"]


class VoyageRequest(OptionsRequest):
    model: str | None = None
    query: str
    documents: Strings
    top_k: int | None = None
    return_documents: bool = False

    @property
    def count(self) -> int:
        return len(self.documents)

    def to_request(self) -> RerankRequest:
        options = self.options()
        if self.top_k is not None:
            options["top_n"] = self.top_k
        return RerankRequest.of(self.query, self.documents, **options)


class VoyageRow(EvidenceResponse):
    relevance_score: float
    index: int
    document: NotRequired[str]


class VoyageResponse(TypedDict):
    object: str
    data: list[VoyageRow]
    model: str
    usage: TotalTokens


class VoyageError(TypedDict):
    detail: str


def voyage_response(ranking: Ranking, with_documents: bool) -> VoyageResponse:
    data: list[VoyageRow] = []
    for row, score in scored_rows(ranking):
        result: VoyageRow = {"relevance_score": score, "index": row.index}
        if with_documents:
            result["document"] = row.document.text
        data.append({**result, **evidence_of(row)})
    return {"object": "list", "data": data, "model": ranking.model, "usage": total_tokens(ranking)}


def voyage_error(status: int, kind: str, message: str, request_id: str) -> VoyageError:
    """The message alone: Voyage's client falls over an error that is an object."""
    return {"detail": message}


VOYAGE = ErrorStyle(voyage_error, VoyageError)
router = new_router("Voyage", VOYAGE)

_EXAMPLE = {
    "model": "any",
    "query": "At what temperature does water boil?",
    "documents": ["Water boils at 100 °C at sea level.", "Everest is 8849 metres high."],
    "top_k": 1,
    "truncation": True,
}


@router.post("/voyage/v1/rerank", summary="Voyage's", response_model=VoyageResponse, responses=ROWS_RESPONSE)
async def rerank(
    body: Annotated[VoyageRequest, Body(openapi_examples={"Documents": {"value": _EXAMPLE}})], raw: Request
) -> Response:
    """For Voyage's clients."""
    ranking = await rank(body, raw)
    return RowsResponse(voyage_response(ranking, body.return_documents), ranking)
