"""Voyage's reranker API."""

from __future__ import annotations

from typing import Annotated, NotRequired

from fastapi import Request, Response
from typing_extensions import TypedDict

from whyrank.ranking import Ranking
from whyrank.request import RerankRequest
from whyrank.serving.compat import rows
from whyrank.serving.examples import RERANK, examples
from whyrank.serving.guarded_route import new_router
from whyrank.serving.handlers import rank
from whyrank.wire import EvidenceResponse, Strings

__all__ = ["VoyageResponse", "router", "voyage_response"]

router = new_router("Voyage", rows.DETAIL)


class VoyageRequest(rows.DialectRequest):
    documents: Strings  # type: ignore[assignment]
    top_k: int | None = None
    return_documents: bool = False

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
    usage: rows.TotalTokens


def voyage_response(ranking: Ranking, with_documents: bool) -> VoyageResponse:
    data: list[VoyageRow] = []
    for row, score in rows.scored(ranking):
        result: VoyageRow = {"relevance_score": score, "index": row.index}
        if with_documents:
            result["document"] = row.document.text
        data.append({**result, **rows.evidence_of(row)})
    return {"object": "list", "data": data, "model": ranking.model, "usage": rows.total_tokens(ranking)}


_EXAMPLES = examples({"Documents": RERANK | {"model": "any", "top_k": 1, "truncation": True}})


@router.post("/voyage/v1/rerank", summary="Voyage's", response_model=VoyageResponse, responses=rows.IN_OPENAPI)
async def rerank(body: Annotated[VoyageRequest, _EXAMPLES], raw: Request) -> Response:
    """For Voyage's clients."""
    ranking = await rank(body, raw)
    return rows.RowsResponse(voyage_response(ranking, body.return_documents), ranking)
