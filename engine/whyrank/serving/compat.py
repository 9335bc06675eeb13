"""The routes of other rerankers' dialects. Each takes and gives what the clients of that one know."""

from __future__ import annotations

from collections.abc import Sized
from typing import Annotated

from fastapi import Request, Response

from whyrank.ranking import Ranking
from whyrank.serving import dialects, openapi
from whyrank.serving.guarded_route import ErrorStyle, request_id, service_of
from whyrank.serving.handlers import new_router, rank, with_row_headers

__all__ = ["DETAIL", "TEI", "cohere", "jina", "tei", "tei_rerank", "voyage"]

COHERE = ErrorStyle(dialects.cohere_error)
DETAIL = ErrorStyle(dialects.detail_error)
TEI = ErrorStyle(dialects.tei_error, invalid=422)

cohere = new_router("Cohere", COHERE, openapi.errors("cohere"))
jina = new_router("Jina", DETAIL, openapi.errors("detail"))
voyage = new_router("Voyage", DETAIL, openapi.errors("detail"))
tei = new_router("Text Embeddings Inference", TEI, openapi.errors("tei"))


_Ask = dialects.CohereAsk | dialects.CohereV1Ask | dialects.JinaAsk | dialects.VoyageAsk | dialects.TeiAsk


async def _check_and_rank(ask: _Ask, documents: Sized, raw: Request) -> Ranking:
    """Counted before a document is made of each: there may be a quarter of a million of them."""
    service_of(raw).limits.check_count(len(documents), "documents")
    return await rank(ask.request(), ask, raw)


@cohere.post("/v2/rerank", summary="Cohere's v2", responses=openapi.with_headers(openapi.CohereAnswer))
@cohere.post("/cohere/v2/rerank", include_in_schema=False)
async def cohere_rerank(
    ask: Annotated[dialects.CohereAsk, openapi.request_example("cohere")], raw: Request
) -> Response:
    """For Cohere's clients at their version 2; options of whyrank are taken and its evidence is given as extra keys."""
    ranking = await _check_and_rank(ask, ask.documents, raw)
    return with_row_headers(dialects.cohere_answer(ask, ranking, request_id(raw)), ranking)


@cohere.post("/cohere/v1/rerank", summary="Cohere's v1", responses=openapi.with_headers(openapi.CohereV1Answer))
async def cohere_v1_rerank(
    ask: Annotated[dialects.CohereV1Ask, openapi.request_example("cohere_v1")], raw: Request
) -> Response:
    """For Cohere's clients at their version 1: documents may be objects, of which `rank_fields` are read."""
    ranking = await _check_and_rank(ask, ask.documents, raw)
    return with_row_headers(dialects.cohere_v1_answer(ask, ranking, request_id(raw)), ranking)


@jina.post("/jina/v1/rerank", summary="Jina's", responses=openapi.with_headers(openapi.JinaAnswer))
async def jina_rerank(ask: Annotated[dialects.JinaAsk, openapi.request_example("jina")], raw: Request) -> Response:
    """Jina's shape and nothing more; /v1/rerank has all its keys as well."""
    ranking = await _check_and_rank(ask, ask.documents, raw)
    return with_row_headers(dialects.jina_answer(ask, ranking, service_of(raw).model), ranking)


@voyage.post("/voyage/v1/rerank", summary="Voyage's", responses=openapi.with_headers(openapi.VoyageAnswer))
async def voyage_rerank(
    ask: Annotated[dialects.VoyageAsk, openapi.request_example("voyage")], raw: Request
) -> Response:
    """For Voyage's clients."""
    ranking = await _check_and_rank(ask, ask.documents, raw)
    return with_row_headers(dialects.voyage_answer(ask.return_documents, ranking, service_of(raw).model), ranking)


@tei.post("/tei/rerank", summary="TEI's", responses=openapi.with_headers(list[openapi.TeiResult]))
async def tei_rerank(ask: Annotated[dialects.TeiAsk, openapi.request_example("tei")], raw: Request) -> Response:
    """For clients of Text Embeddings Inference: `texts` in, a bare array out."""
    ranking = await _check_and_rank(ask, ask.texts, raw)
    return with_row_headers(dialects.tei_answer(ask, ranking), ranking)
