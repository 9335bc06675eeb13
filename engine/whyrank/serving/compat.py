"""The routes of other rerankers' dialects. Each takes and gives what the clients of that one know."""

from __future__ import annotations

from collections.abc import Sized
from typing import Annotated

from fastapi import Request, Response

from whyrank.ranking import Ranking
from whyrank.serving import dialects
from whyrank.serving import openapi as shown
from whyrank.serving.guarded_route import ErrorStyle, request_id, service_of
from whyrank.serving.handlers import headed, new_router, ranked

__all__ = ["DETAIL", "TEI", "cohere", "jina", "tei", "tei_rerank", "voyage"]

COHERE = ErrorStyle(dialects.cohere_error)
DETAIL = ErrorStyle(dialects.detail_error)
TEI = ErrorStyle(dialects.tei_error, invalid=422)

cohere = new_router("Cohere", COHERE, shown.errors("cohere"))
jina = new_router("Jina", DETAIL, shown.errors("detail"))
voyage = new_router("Voyage", DETAIL, shown.errors("detail"))
tei = new_router("Text Embeddings Inference", TEI, shown.errors("tei"))


_Ask = dialects.CohereAsk | dialects.CohereV1Ask | dialects.JinaAsk | dialects.VoyageAsk | dialects.TeiAsk


async def _counted_and_ranked(ask: _Ask, documents: Sized, raw: Request) -> Ranking:
    """Counted before a document is made of each: there may be a quarter of a million of them."""
    service_of(raw).limits.check_count(len(documents), "documents")
    return await ranked(ask.request(), ask, raw)


@cohere.post("/v2/rerank", summary="Cohere's v2", responses=shown.headed(shown.CohereAnswer))
@cohere.post("/cohere/v2/rerank", include_in_schema=False)
async def cohere_rerank(ask: Annotated[dialects.CohereAsk, shown.request_example("cohere")], raw: Request) -> Response:
    """For Cohere's clients at their version 2; options of whyrank are taken and its evidence is given as extra keys."""
    ranking = await _counted_and_ranked(ask, ask.documents, raw)
    return headed(dialects.cohere_answer(ask, ranking, request_id(raw)), ranking)


@cohere.post("/cohere/v1/rerank", summary="Cohere's v1", responses=shown.headed(shown.CohereV1Answer))
async def cohere_v1_rerank(
    ask: Annotated[dialects.CohereV1Ask, shown.request_example("cohere_v1")], raw: Request
) -> Response:
    """For Cohere's clients at their version 1: documents may be objects, of which `rank_fields` are read."""
    ranking = await _counted_and_ranked(ask, ask.documents, raw)
    return headed(dialects.cohere_v1_answer(ask, ranking, request_id(raw)), ranking)


@jina.post("/jina/v1/rerank", summary="Jina's", responses=shown.headed(shown.JinaAnswer))
async def jina_rerank(ask: Annotated[dialects.JinaAsk, shown.request_example("jina")], raw: Request) -> Response:
    """Jina's shape and nothing more; /v1/rerank has all its keys as well."""
    ranking = await _counted_and_ranked(ask, ask.documents, raw)
    return headed(dialects.jina_answer(ask, ranking, service_of(raw).model), ranking)


@voyage.post("/voyage/v1/rerank", summary="Voyage's", responses=shown.headed(shown.VoyageAnswer))
async def voyage_rerank(ask: Annotated[dialects.VoyageAsk, shown.request_example("voyage")], raw: Request) -> Response:
    """For Voyage's clients."""
    ranking = await _counted_and_ranked(ask, ask.documents, raw)
    return headed(dialects.voyage_answer(ask.return_documents, ranking, service_of(raw).model), ranking)


@tei.post("/tei/rerank", summary="TEI's", responses=shown.headed(list[shown.TeiResult]))
async def tei_rerank(ask: Annotated[dialects.TeiAsk, shown.request_example("tei")], raw: Request) -> Response:
    """For clients of Text Embeddings Inference: `texts` in, a bare array out."""
    ranking = await _counted_and_ranked(ask, ask.texts, raw)
    return headed(dialects.tei_answer(ask, ranking), ranking)
