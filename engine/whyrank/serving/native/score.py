"""Scores of pairs."""

from __future__ import annotations

import time
from typing import Annotated, NotRequired

from fastapi import Request, Response
from typing_extensions import TypedDict

from whyrank.errors import WhyrankError
from whyrank.serving.context import request_id, service_of
from whyrank.serving.examples import OTHER_QUERY, QUERY, TEXTS, examples
from whyrank.serving.handlers import check_body, rank_many, warnings_of
from whyrank.serving.native.errors import native_router
from whyrank.serving.native.requests import ScoreRequest
from whyrank.serving.native.rerank import TotalUsage, total_usage
from whyrank.serving.responses import JsonResponse
from whyrank.types import RankedDocument, Usage
from whyrank.wire.responses import ScoreKeys, score_to_dict

__all__ = ["ScoreResponse", "router", "score"]

router = native_router()

_QUERIES = [QUERY, OTHER_QUERY]
_EXAMPLES = examples(
    {
        "One with many": {"queries": QUERY, "documents": TEXTS},
        "Pairs": {"queries": _QUERIES, "documents": TEXTS},
        "Grid": {"queries": _QUERIES, "documents": TEXTS, "grid": True},
    }
)


class ScoreRow(ScoreKeys):
    index: int
    object: str


class ScoreResponse(TypedDict):
    """`scores`: for a grid, one row per query."""

    id: str
    object: str
    created: int
    model: str
    data: list[ScoreRow]
    usage: TotalUsage
    scores: NotRequired[list[list[float | None]]]
    warnings: NotRequired[list[str]]


@router.post("/v1/score", summary="Score pairs", response_model=ScoreResponse)
async def score(body: Annotated[ScoreRequest, _EXAMPLES], raw: Request) -> Response:
    """Scores of pairs, in the order of the pairs. The format is that of vLLM's /score, plus margin and label mass."""
    check_body(body, raw)
    requests = body.to_requests()
    rows: list[RankedDocument] = []
    usage = Usage()
    for ranking in await rank_many([(request, body) for request in requests], raw):
        if isinstance(ranking, WhyrankError):
            raise ranking
        rows += sorted(ranking.results, key=lambda row: row.index)
        usage += ranking.usage
    scores = [body.shown_score(row) for row in rows]
    response: ScoreResponse = {
        "id": f"score-{request_id(raw)}",
        "object": "list",
        "created": int(time.time()),
        "model": service_of(raw).answering(body.model),
        "data": [
            {"index": i, "object": "score", **score_to_dict(row), "score": score}
            for i, (row, score) in enumerate(zip(rows, scores, strict=True))
        ],
        "usage": total_usage(usage),
    }
    if body.grid:
        width = len(requests[0].documents)
        response["scores"] = [scores[at : at + width] for at in range(0, len(scores), width)]
    if warnings := warnings_of(body, raw):
        response["warnings"] = warnings
    return JsonResponse(response)
