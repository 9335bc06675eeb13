"""Infinity's rerank API."""

from __future__ import annotations

import time
from typing import Annotated, NotRequired

from fastapi import Request, Response
from typing_extensions import TypedDict

from whyrank.ranking import Ranking
from whyrank.serving.compat import rows
from whyrank.serving.context import request_id
from whyrank.serving.examples import RERANK, examples
from whyrank.serving.guarded_route import new_router
from whyrank.serving.handlers import rank, warnings_of
from whyrank.serving.native.errors import NATIVE
from whyrank.wire.requests import Strings
from whyrank.wire.responses import EvidenceResponse

__all__ = ["router"]

router = new_router("Infinity", NATIVE)


class InfinityRequest(rows.DialectRequest):
    documents: Strings  # type: ignore[assignment]
    return_documents: bool = False
    raw_scores: bool = False


class InfinityRow(EvidenceResponse):
    relevance_score: float
    index: int
    document: NotRequired[str]


class InfinityUsage(rows.TotalTokens):
    prompt_tokens: int


class InfinityResponse(TypedDict):
    object: str
    id: str
    created: int
    model: str
    results: list[InfinityRow]
    usage: InfinityUsage


def infinity_response(body: InfinityRequest, ranking: Ranking, raw: Request) -> InfinityResponse:
    results: list[InfinityRow] = []
    for row, score in rows.scored(ranking):
        shown = row.margin if body.raw_scores and row.margin is not None else score
        result: InfinityRow = {"relevance_score": shown, "index": row.index}
        if body.return_documents:
            result["document"] = row.document.text
        results.append({**result, **rows.evidence_of(row)})
    return {
        "object": "rerank",
        "id": f"infinity-{request_id(raw)}",
        "created": int(time.time()),
        "model": ranking.model,
        "results": results,
        "usage": {"prompt_tokens": ranking.usage.prompt_tokens, **rows.total_tokens(ranking)},
    }


_EXAMPLES = examples({"Documents": RERANK | {"return_documents": True}})


@router.post("/infinity/rerank", summary="Infinity's", response_model=InfinityResponse, responses=rows.IN_OPENAPI)
async def rerank(body: Annotated[InfinityRequest, _EXAMPLES], raw: Request) -> Response:
    """For Infinity's clients: a document comes back as a string, and only where it was asked for."""
    ranking = await rank(body, raw)
    return rows.RowsResponse(infinity_response(body, ranking, raw), ranking, warnings_of(body, raw))
