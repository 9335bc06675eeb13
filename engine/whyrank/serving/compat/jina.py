"""Jina's reranker API."""

from __future__ import annotations

from typing import Annotated, NotRequired

from fastapi import Request, Response
from typing_extensions import TypedDict

from whyrank.ranking import Ranking
from whyrank.serving.compat import rows
from whyrank.serving.examples import QUERY, TEXTS, examples
from whyrank.serving.guarded_route import new_router
from whyrank.serving.handlers import rank, warnings_of
from whyrank.wire.responses import EvidenceResponse

__all__ = ["router"]

router = new_router("Jina", rows.DETAIL)


class JinaRequest(rows.DialectRequest):
    return_documents: bool = True


class JinaDocument(TypedDict):
    text: str


class JinaRow(EvidenceResponse):
    index: int
    relevance_score: float
    document: NotRequired[JinaDocument]


class JinaResponse(TypedDict):
    model: str
    object: str
    usage: rows.TotalTokens
    results: list[JinaRow]


def jina_response(body: JinaRequest, ranking: Ranking) -> JinaResponse:
    results: list[JinaRow] = []
    for row, score in rows.scored(ranking):
        result: JinaRow = {"index": row.index, "relevance_score": score}
        if body.return_documents:
            result["document"] = {"text": row.document.text}
        results.append({**result, **rows.evidence_of(row)})
    return {"model": ranking.model, "object": "list", "usage": rows.total_tokens(ranking), "results": results}


_EXAMPLES = examples({"Documents": {"query": QUERY, "documents": [TEXTS[0], {"text": TEXTS[1]}]}})


@router.post("/jina/v1/rerank", summary="Jina's", response_model=JinaResponse, responses=rows.IN_OPENAPI)
async def rerank(body: Annotated[JinaRequest, _EXAMPLES], raw: Request) -> Response:
    """Jina's shape and nothing more; /v1/rerank has all its keys as well."""
    ranking = await rank(body, raw)
    return rows.RowsResponse(jina_response(body, ranking), ranking, warnings_of(body, raw))
