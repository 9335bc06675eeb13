"""Voyage's reranker API."""

from __future__ import annotations

import re
from typing import Annotated, NotRequired

from fastapi import Request, Response
from typing_extensions import TypedDict

from whyrank.ranking import Ranking
from whyrank.request import RerankRequest
from whyrank.serving.compat import rows
from whyrank.serving.context import body_of
from whyrank.serving.examples import RERANK, examples
from whyrank.serving.guarded_route import ErrorStyle, new_router
from whyrank.serving.handlers import rank, warnings_of
from whyrank.wire.requests import Strings, top_k_options
from whyrank.wire.responses import EvidenceResponse

__all__ = ["VOYAGE", "VoyageResponse", "is_voyages", "router", "voyage_response"]

VOYAGE = ErrorStyle(rows.detail_error, rows.DetailError, statuses={413: 400})
router = new_router("Voyage", VOYAGE)

# Cohere's names have a "v" or a language where Voyage's have a digit.
_MODEL = re.compile(r"((voyage|voyageai)/)?rerank-(lite-)?[0-9]")


def is_voyages(request: Request) -> bool:
    """Whether a request at a path of several dialects is Voyage's: by its client's name, by its own keys, or by the name of one
    of its models beside none of the others' keys."""
    body = body_of(request)
    if "queries" in body or "texts" in body:
        return False
    if "voyage" in request.headers.get("user-agent", "").lower():
        return True
    if "top_k" in body or isinstance(body.get("truncation"), bool):
        return True
    model = body.get("model")
    return isinstance(model, str) and "top_n" not in body and _MODEL.match(model.lower()) is not None


class VoyageRequest(rows.DialectRequest):
    documents: Strings  # type: ignore[assignment]
    top_k: int | None = None
    return_documents: bool = False

    def to_request(self) -> RerankRequest:
        options = self.options() | top_k_options(self.top_k)
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


_EXAMPLES = examples({"Documents": RERANK | {"top_k": 1, "truncation": True}})


@router.post("/voyage/v1/rerank", summary="Voyage's", response_model=VoyageResponse, responses=rows.IN_OPENAPI)
async def rerank(body: Annotated[VoyageRequest, _EXAMPLES], raw: Request) -> Response:
    """For Voyage's clients."""
    ranking = await rank(body, raw)
    return rows.RowsResponse(voyage_response(ranking, body.return_documents), ranking, warnings_of(body, raw))
