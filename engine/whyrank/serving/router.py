"""The routes. Each turns a body into requests, asks the service, and turns rankings into a body."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse

from whyrank.errors import InvalidRequest, WhyrankError
from whyrank.events import Event
from whyrank.formats import builtin_formats
from whyrank.ranking import Ranking
from whyrank.requests import RerankRequest
from whyrank.serving import dialects
from whyrank.serving.door import request_id, route_class, service_of
from whyrank.types import RankedDocument, Usage
from whyrank.wire import BatchAsk, OptionsAsk, RankingBody, RerankAsk, ResultBody, ScoreAsk, UsageBody, event_document

__all__ = ["routers"]

native = APIRouter(route_class=route_class(dialects.vllm_error), tags=["whyrank"])
cohere = APIRouter(route_class=route_class(dialects.cohere_error), tags=["Cohere"])
jina = APIRouter(route_class=route_class(dialects.detail_error), tags=["Jina"])
voyage = APIRouter(route_class=route_class(dialects.detail_error), tags=["Voyage"])
tei = APIRouter(route_class=route_class(dialects.tei_error, invalid=422), tags=["Text Embeddings Inference"])
health = APIRouter(tags=["whyrank"])
routers = (native, cohere, jina, voyage, tei, health)

_PLAYGROUND = Path(__file__).parent / "playground" / "index.html"


# Native.


@native.post("/v1/rerank")
async def rerank(ask: RerankAsk, raw: Request) -> Response:
    """Score documents against a query and order them, best first; in mode "evidence" also say why for the best.

    Takes what Jina's, Cohere's v1 and vLLM's clients send, and answers with the keys of all three. A client of Voyage is
    known by its `top_k` or its true or false `truncation`, and answered in its own shape.
    """
    if ask.stream:
        return await _streamed(ask, raw)
    if ask.query is not None:
        ranking = await _ranked(ask.requests()[0], ask, raw)
        if ask.top_k is not None or isinstance(ask.truncation, bool):
            documents = ask.return_documents if "return_documents" in ask.model_fields_set else False
            return JSONResponse(dialects.voyage_answer(documents, ranking, service_of(raw).model))
        return JSONResponse(_answer(ranking, ask, raw))
    rankings = await service_of(raw).rerank_many([_salted(request, raw) for request in ask.requests()])
    answers = [_answer_or_error(ranking, ask, raw) for ranking in rankings]
    return JSONResponse({"id": f"rerank-{request_id(raw)}", "object": "list", "rankings": answers})


@native.post("/v1/rerank/stream")
async def rerank_stream(ask: RerankAsk, raw: Request) -> Response:
    """The same as server-sent events: `score` for each document, `ranking`, `delta` and `evidence`, and `done` with all."""
    return await _streamed(ask, raw)


@native.post("/v1/rerank/batch")
async def rerank_batch(ask: BatchAsk, raw: Request) -> Response:
    """Several requests in one body, each with its own answer or error, in order."""
    asked: list[RerankRequest | WhyrankError] = []
    for i, one in enumerate(ask.requests):
        try:
            if one.query is None or one.stream:
                raise InvalidRequest(f"requests[{i}]: in a batch, each has one 'query' and no 'stream'")
            asked.append(_salted(one.requests()[0], raw))
        except InvalidRequest as error:
            asked.append(error)
    answered = iter(
        await service_of(raw).rerank_many([request for request in asked if isinstance(request, RerankRequest)])
    )
    answers = [
        _answer_or_error(next(answered) if isinstance(request, RerankRequest) else request, one, raw)
        for request, one in zip(asked, ask.requests, strict=True)
    ]
    return JSONResponse({"id": f"rerank-{request_id(raw)}", "object": "list", "answers": answers})


@native.post("/v1/score")
@native.post("/score", include_in_schema=False)
async def score(ask: ScoreAsk, raw: Request) -> Response:
    """Scores of pairs, in the order of the pairs; the shape of vLLM's /score, with margin and label mass."""
    queries, documents, pairs = ask.pairs()
    asked: dict[int, list[int]] = {}
    for query, document in pairs:
        asked.setdefault(query, []).append(document)
    options = ask.options()
    requests = [
        _salted(RerankRequest.of(queries[query], [documents[i] for i in of_it], **options), raw)
        for query, of_it in asked.items()
    ]
    rows: dict[tuple[int, int], RankedDocument] = {}
    usage = Usage()
    for (query, of_it), ranking in zip(asked.items(), await service_of(raw).rerank_many(requests), strict=True):
        if isinstance(ranking, WhyrankError):
            raise ranking
        usage += ranking.usage
        rows |= {(query, of_it[row.index]): row for row in ranking.results}
    data = [_score_row(i, rows[pair]) for i, pair in enumerate(pairs)]
    answer = {
        "id": f"score-{request_id(raw)}",
        "object": "list",
        "created": int(time.time()),
        "model": service_of(raw).model,
        "data": data,
        "usage": _usage(usage),
    }
    if ask.grid:
        width = len(documents)
        answer["scores"] = [[row["score"] for row in data[at : at + width]] for at in range(0, len(data), width)]
    return JSONResponse(answer | _warnings(ask.unknown()))


def _score_row(index: int, row: RankedDocument) -> dict[str, Any]:
    body = ResultBody.of(row).model_dump(
        mode="json", include={"margin", "label_mass", "truncation", "neutralised", "error"}
    )
    return {"index": index, "object": "score", "score": row.score, **body}


@native.get("/v1/formats")
async def formats(raw: Request) -> Response:
    """The prompt that is served, and all that come with whyrank."""
    served = service_of(raw).plan.format
    known = builtin_formats() | {served.name: served}
    return JSONResponse(
        {
            "served": served.fingerprint,
            "writes_evidence": service_of(raw).writes,
            "formats": [fmt.model_dump(mode="json") | {"fingerprint": fmt.fingerprint} for fmt in known.values()],
        }
    )


@native.get("/playground", include_in_schema=False)
async def playground(raw: Request) -> Response:
    return HTMLResponse(_PLAYGROUND.read_text(encoding="utf-8"))


@native.post("/playground/stream", include_in_schema=False)
async def playground_stream(ask: RerankAsk, raw: Request) -> Response:
    """/v1/rerank/stream where a browser's own password prompt is good enough as a key; vLLM guards /v1 with bearer tokens."""
    return await _streamed(ask, raw)


async def _streamed(ask: RerankAsk, raw: Request) -> Response:
    if ask.query is None:
        raise InvalidRequest("a stream answers one 'query'")
    (request,) = ask.requests()
    events = service_of(raw).events(_salted(request, raw), live=True)
    # What refuses the request does so before its first event, while there is a status to say it with.
    first = await anext(events)
    return StreamingResponse(
        _frames(first, events, raw), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


async def _frames(first: Event, events: AsyncGenerator[Event, None], raw: Request) -> AsyncGenerator[str, None]:
    async with aclosing(events):
        yield _frame(event_document(first))
        try:
            async for event in events:
                yield _frame(event_document(event))
        except WhyrankError as error:
            body = dialects.vllm_error(503, type(error).__name__, str(error), request_id(raw))
            yield _frame({"event": "error", "data": body["error"]})


def _frame(event: dict[str, Any]) -> str:
    return f"event: {event['event']}\ndata: {json.dumps(event['data'], ensure_ascii=False)}\n\n"


async def _ranked(request: RerankRequest, ask: OptionsAsk, raw: Request) -> Ranking:
    ranking = await service_of(raw).rerank(_salted(request, raw))
    for row in ranking.results if ask.refuses_truncation else ():
        if row.truncation is not None and row.truncation.truncated:
            raise InvalidRequest(
                f"documents[{row.index}] and the query are longer than the model reads, {row.truncation.used_tokens} of "
                f"{row.truncation.original_tokens} tokens of the document: shorten them, or allow truncation"
            )
    return ranking


def _salted(request: RerankRequest, raw: Request) -> RerankRequest:
    """Tenants never share a cache, whatever salt they ask for."""
    salts = [salt for salt in (raw.state.whyrank_salt, request.cache_salt) if salt]
    return replace(request, cache_salt=":".join(salts) or None)


def _answer(ranking: Ranking, ask: RerankAsk, raw: Request) -> dict[str, Any]:
    body = RankingBody.of(ranking).document()
    for result, row in zip(body["results"], ranking.results, strict=True):
        if row.score is not None:
            result["relevance_score"] = row.score
        if ask.return_documents:
            named = {"id": row.document.id, "title": row.document.title}
            result["document"] = {"text": row.document.text} | {k: v for k, v in named.items() if v is not None}
    body["usage"] = _usage(ranking.usage)
    own = {"id": f"rerank-{request_id(raw)}", "object": "list", "model": service_of(raw).model}
    return body | own | _warnings(ask.unknown())


def _answer_or_error(ranking: Ranking | WhyrankError, ask: RerankAsk, raw: Request) -> dict[str, Any]:
    if isinstance(ranking, Ranking):
        return _answer(ranking, ask, raw)
    return {"error": dialects.vllm_error(400, type(ranking).__name__, str(ranking), request_id(raw))["error"]}


def _usage(usage: Usage) -> dict[str, int]:
    body = UsageBody.model_validate(usage).model_dump()
    return body | {"total_tokens": usage.prompt_tokens + usage.output_tokens}


def _warnings(warnings: list[str]) -> dict[str, Any]:
    return {"warnings": warnings} if warnings else {}


# The others' dialects.


@cohere.post("/v2/rerank")
@cohere.post("/cohere/v2/rerank", include_in_schema=False)
async def cohere_rerank(ask: dialects.CohereAsk, raw: Request) -> Response:
    ranking = await _ranked(ask.request(), ask, raw)
    return JSONResponse(dialects.cohere_answer(ask, ranking, request_id(raw)))


@cohere.post("/cohere/v1/rerank")
async def cohere_v1_rerank(ask: dialects.CohereV1Ask, raw: Request) -> Response:
    ranking = await _ranked(ask.request(), ask, raw)
    return JSONResponse(dialects.cohere_v1_answer(ask, ranking, request_id(raw)))


@jina.post("/jina/v1/rerank")
async def jina_rerank(ask: dialects.JinaAsk, raw: Request) -> Response:
    ranking = await _ranked(ask.request(), ask, raw)
    return JSONResponse(dialects.jina_answer(ask, ranking, service_of(raw).model))


@voyage.post("/voyage/v1/rerank")
async def voyage_rerank(ask: dialects.VoyageAsk, raw: Request) -> Response:
    ranking = await _ranked(ask.request(), ask, raw)
    return JSONResponse(dialects.voyage_answer(ask.return_documents, ranking, service_of(raw).model))


@tei.post("/rerank")
@tei.post("/tei/rerank", include_in_schema=False)
async def tei_rerank(ask: dialects.TeiAsk, raw: Request) -> Response:
    ranking = await _ranked(ask.request(), ask, raw)
    return JSONResponse(dialects.tei_answer(ask, ranking))


# Health, open to every load balancer. It says nothing of anybody's texts.


@health.get("/health")
async def get_health(raw: Request) -> Response:
    """200 while a known pair still gets the score that it got at the start; else 503."""
    found = await service_of(raw).health()
    body = {"status": found.status, "canary": {"margin": found.canary_margin, "expected": found.canary_expected}}
    return JSONResponse(body, 200 if found.well else 503)
