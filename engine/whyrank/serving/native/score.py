"""Scores of pairs."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import Body, Request, Response

from whyrank.errors import WhyrankError
from whyrank.request import RerankRequest
from whyrank.serving.context import request_id, service_of
from whyrank.serving.handlers import check_count, rank_many
from whyrank.serving.native.errors import native_router
from whyrank.serving.native.protocol import ScoreRequest, ScoreResponse, ScoreRow, total_usage
from whyrank.serving.responses import JsonResponse
from whyrank.types import RankedDocument, Usage
from whyrank.wire import row_to_dict

__all__ = ["router", "score"]

router = native_router()

_QUERIES = ["At what temperature does water boil?", "How high is Everest?"]
_TEXTS = ["Water boils at 100 °C at sea level.", "Everest is 8849 metres high."]
_EXAMPLES = Body(
    openapi_examples={
        "One with many": {"value": {"queries": _QUERIES[0], "documents": _TEXTS}},
        "Pairs": {"value": {"queries": _QUERIES, "documents": _TEXTS}},
        "Grid": {"value": {"queries": _QUERIES, "documents": _TEXTS, "grid": True}},
    }
)


@router.post("/v1/score", summary="Score pairs", response_model=ScoreResponse)
@router.post("/score", include_in_schema=False)
async def score(body: Annotated[ScoreRequest, _EXAMPLES], raw: Request) -> Response:
    """Scores of pairs, in the order of the pairs; the shape of vLLM's /score, with margin and label mass."""
    check_count(body, raw)
    queries, documents, pairs = body.pairs()
    by_query: dict[int, list[int]] = {}
    for query, document in pairs:
        by_query.setdefault(query, []).append(document)
    requests = [
        RerankRequest.of(queries[query], [documents[i] for i in places], **body.options())
        for query, places in by_query.items()
    ]
    rankings = await rank_many([(request, body) for request in requests], raw)
    rows: dict[tuple[int, int], RankedDocument] = {}
    usage = Usage()
    for (query, places), ranking in zip(by_query.items(), rankings, strict=True):
        if isinstance(ranking, WhyrankError):
            raise ranking
        usage += ranking.usage
        rows |= {(query, places[row.index]): row for row in ranking.results}
    response: ScoreResponse = {
        "id": f"score-{request_id(raw)}",
        "object": "list",
        "created": int(time.time()),
        "model": service_of(raw).model,
        "data": [_score_row(i, rows[pair]) for i, pair in enumerate(pairs)],
        "usage": total_usage(usage),
    }
    if body.grid:
        scores = [row["score"] for row in response["data"]]
        width = len(documents)
        response["scores"] = [scores[at : at + width] for at in range(0, len(scores), width)]
    if warnings := body.unknown_keys():
        response["warnings"] = warnings
    return JsonResponse(response)


def _score_row(index: int, row: RankedDocument) -> ScoreRow:
    body = row_to_dict(row)
    return {
        "index": index,
        "object": "score",
        "score": body["score"],
        "margin": body["margin"],
        "label_mass": body["label_mass"],
        "truncation": body["truncation"],
        "neutralised": body["neutralised"],
        "error": body["error"],
    }
