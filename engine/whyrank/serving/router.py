"""The routes. Each turns a body into requests, asks the service, and turns rankings into a body."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import HTMLResponse, StreamingResponse
from pydantic import Discriminator, Tag

from whyrank.errors import InvalidRequest, WhyrankError
from whyrank.events import Event
from whyrank.formats import builtin_formats
from whyrank.ranking import Ranking
from whyrank.requests import RerankRequest
from whyrank.serving import dialects
from whyrank.serving import openapi as shown
from whyrank.serving.door import ErrorStyle, Json, request_id, route_class, service_of, what_happened
from whyrank.types import RankedDocument, Usage
from whyrank.wire import (
    BatchAsk,
    RankingBody,
    ReadingAsk,
    RerankAsk,
    ResultBody,
    ScoreAsk,
    UsageBody,
    event_document,
    to_json,
)

__all__ = ["routers"]

NATIVE = ErrorStyle(dialects.vllm_error)
COHERE = ErrorStyle(dialects.cohere_error)
DETAIL = ErrorStyle(dialects.detail_error)
TEI = ErrorStyle(dialects.tei_error, invalid=422)


def _router(tag: str, style: ErrorStyle, errors: dict[int | str, dict[str, Any]], **by_key: ErrorStyle) -> APIRouter:
    key = [Depends(shown.api_key)]
    return APIRouter(route_class=route_class(style, by_key), tags=[tag], responses=errors, dependencies=key)


native = _router("whyrank", NATIVE, shown.errors("native"))
bare = _router("Text Embeddings Inference and vLLM", NATIVE, shown.errors("native", other="tei"), texts=TEI)
cohere = _router("Cohere", COHERE, shown.errors("cohere"))
jina = _router("Jina", DETAIL, shown.errors("detail"))
voyage = _router("Voyage", DETAIL, shown.errors("detail"))
tei = _router("Text Embeddings Inference", TEI, shown.errors("tei"))
health = APIRouter(tags=["whyrank"])
routers = (native, bare, cohere, jina, voyage, tei, health)

_PLAYGROUND = Path(__file__).parent / "playground" / "index.html"


# Native.


_RERANK_ANSWERS = (shown.RerankAnswer, shown.ManyAnswer, shown.VoyageAnswer)


@native.post("/v1/rerank", summary="Rerank", responses=shown.answered(*_RERANK_ANSWERS, streams=True))
async def rerank(ask: Annotated[RerankAsk, shown.asked("rerank")], raw: Request) -> Response:
    """Score documents against a query and order them, best first; in mode "evidence" also say why for the best.

    Takes what Jina's, Cohere's v1 and vLLM's clients send, and answers with the keys of all three. A client of Voyage is
    known by its `top_k` or its true or false `truncation`, and answered in its own shape.
    """
    _check_count(ask, raw)
    if ask.stream:
        return await _streamed(ask, raw)
    if ask.queries is None:
        ranking = await _ranked(ask.requests()[0], ask, raw)
        if ask.top_k is not None or isinstance(ask.truncation, bool):
            documents = ask.return_documents if "return_documents" in ask.model_fields_set else False
            return Json(dialects.voyage_answer(documents, ranking, service_of(raw).model))
        return Json(_answer(ranking, ask, raw))
    rankings = await _ranked_many([(request, ask) for request in ask.requests()], raw)
    answers = [_answer_or_error(ranking, ask, raw) for ranking in rankings]
    return Json({"id": f"rerank-{request_id(raw)}", "object": "list", "rankings": answers})


@native.post("/v1/rerank/stream", summary="Rerank, as it happens", responses=shown.answered(streams=True))
async def rerank_stream(ask: Annotated[RerankAsk, shown.asked("stream")], raw: Request) -> Response:
    """The same as server-sent events: `score` for each document, `ranking`, `delta` and `evidence`, and `done` with all."""
    _check_count(ask, raw)
    return await _streamed(ask, raw)


@native.post("/v1/rerank/batch", summary="Rerank several", responses=shown.answered(shown.BatchAnswer))
async def rerank_batch(ask: Annotated[BatchAsk, shown.asked("batch")], raw: Request) -> Response:
    """Several requests in one body, each with its own answer or error, in order."""
    _check_count(ask, raw)
    asked: list[RerankRequest | InvalidRequest] = []
    for i, one in enumerate(ask.requests):
        try:
            if one.query is None or one.stream:
                raise InvalidRequest(f"requests[{i}]: in a batch, each has one 'query' and no 'stream'")
            asked.append(one.requests()[0])
        except InvalidRequest as error:
            asked.append(error)
    good = [
        (request, one) for request, one in zip(asked, ask.requests, strict=True) if isinstance(request, RerankRequest)
    ]
    answered = iter(await _ranked_many(good, raw))
    answers = [
        _answer_or_error(next(answered) if isinstance(request, RerankRequest) else request, one, raw)
        for request, one in zip(asked, ask.requests, strict=True)
    ]
    return Json({"id": f"rerank-{request_id(raw)}", "object": "list", "answers": answers})


@native.post("/v1/score", summary="Score pairs", responses=shown.answered(shown.ScoreAnswer))
@native.post("/score", include_in_schema=False)
async def score(ask: Annotated[ScoreAsk, shown.asked("score")], raw: Request) -> Response:
    """Scores of pairs, in the order of the pairs; the shape of vLLM's /score, with margin and label mass."""
    _check_count(ask, raw)
    queries, documents, pairs = ask.pairs()
    asked: dict[int, list[int]] = {}
    for query, document in pairs:
        asked.setdefault(query, []).append(document)
    options = ask.options()
    requests = [
        RerankRequest.of(queries[query], [documents[i] for i in of_it], **options) for query, of_it in asked.items()
    ]
    rankings = await _ranked_many([(request, ask) for request in requests], raw)
    rows: dict[tuple[int, int], RankedDocument] = {}
    usage = Usage()
    for (query, of_it), ranking in zip(asked.items(), rankings, strict=True):
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
    return Json(answer | _warnings(ask.unknown()))


def _score_row(index: int, row: RankedDocument) -> dict[str, Any]:
    body = ResultBody.of(row).model_dump(
        mode="json", include={"margin", "label_mass", "truncation", "neutralised", "error"}
    )
    return {"index": index, "object": "score", "score": row.score, **body}


@native.get("/v1/formats", summary="Prompts", responses=shown.answered(shown.FormatsAnswer))
async def formats(raw: Request) -> Response:
    """The prompt that is served, and all that come with whyrank."""
    served = service_of(raw).plan.format
    known = builtin_formats() | {served.name: served}
    return Json(
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
    _check_count(ask, raw)
    return await _streamed(ask, raw)


async def _streamed(ask: RerankAsk, raw: Request) -> Response:
    if ask.query is None:
        raise InvalidRequest("a stream answers one 'query'")
    if ask.refuses_truncation:
        raise InvalidRequest("truncation is false: a stream has told its scores before it knows; leave one of them out")
    (request,) = ask.requests()
    events = service_of(raw).events(_salted(request, raw), live=True)
    # What refuses the request does so before its first event, while there is a status to say it with.
    first = await anext(events)
    return StreamingResponse(
        _frames(first, events, raw), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


async def _frames(first: Event, events: AsyncGenerator[Event, None], raw: Request) -> AsyncGenerator[bytes, None]:
    async with aclosing(events):
        yield _frame(event_document(first))
        try:
            async for event in events:
                yield _frame(event_document(event))
        except Exception as error:  # the status has been sent: only the stream itself can tell
            yield _frame({"event": "error", "data": _fault(error, raw)})


def _frame(event: dict[str, Any]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (event["event"].encode(), to_json(event["data"]))


class _Counted(Protocol):
    @property
    def count(self) -> int: ...


def _check_count(ask: _Counted, raw: Request) -> None:
    """Before requests are made of it: a grid is far larger than its body."""
    service_of(raw).limits.check_count(ask.count, "documents")


async def _ranked(request: RerankRequest, ask: ReadingAsk, raw: Request) -> Ranking:
    ranking = await service_of(raw).rerank(_salted(request, raw))
    _check_cut(ranking, ask)
    return ranking


async def _ranked_many(asked: Sequence[tuple[RerankRequest, ReadingAsk]], raw: Request) -> list[Ranking | WhyrankError]:
    answers = await service_of(raw).rerank_many([_salted(request, raw) for request, _ in asked])
    for i, (answer, (_, ask)) in enumerate(zip(answers, asked, strict=True)):
        try:
            if isinstance(answer, Ranking):
                _check_cut(answer, ask)
        except InvalidRequest as error:
            answers[i] = error
    return answers


def _check_cut(ranking: Ranking, ask: ReadingAsk) -> None:
    for row in ranking.results if ask.refuses_truncation else ():
        if row.truncation is not None and row.truncation.truncated:
            raise InvalidRequest(
                f"documents[{row.index}] and the query are longer than the model reads, {row.truncation.used_tokens} of "
                f"{row.truncation.original_tokens} tokens of the document: shorten them, or allow truncation"
            )


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
    return {"error": _fault(ranking, raw)}


def _fault(error: Exception, raw: Request) -> dict[str, Any]:
    fault: dict[str, Any] = dialects.vllm_error(*what_happened(raw, error), request_id(raw))["error"]
    return fault


def _usage(usage: Usage) -> dict[str, int]:
    body = UsageBody.model_validate(usage).model_dump()
    return body | {"total_tokens": usage.prompt_tokens + usage.output_tokens}


def _warnings(warnings: list[str]) -> dict[str, Any]:
    return {"warnings": warnings} if warnings else {}


# The others' dialects.


@cohere.post("/v2/rerank", summary="Cohere's v2", responses=shown.answered(shown.CohereAnswer))
@cohere.post("/cohere/v2/rerank", include_in_schema=False)
async def cohere_rerank(ask: Annotated[dialects.CohereAsk, shown.asked("cohere")], raw: Request) -> Response:
    """For Cohere's clients at their version 2; options of whyrank are taken and its evidence is given as extra keys."""
    ranking = await _ranked(ask.request(), ask, raw)
    return Json(dialects.cohere_answer(ask, ranking, request_id(raw)))


@cohere.post("/cohere/v1/rerank", summary="Cohere's v1", responses=shown.answered(shown.CohereV1Answer))
async def cohere_v1_rerank(ask: Annotated[dialects.CohereV1Ask, shown.asked("cohere_v1")], raw: Request) -> Response:
    """For Cohere's clients at their version 1: documents may be objects, of which `rank_fields` are read."""
    ranking = await _ranked(ask.request(), ask, raw)
    return Json(dialects.cohere_v1_answer(ask, ranking, request_id(raw)))


@jina.post("/jina/v1/rerank", summary="Jina's", responses=shown.answered(shown.JinaAnswer))
async def jina_rerank(ask: Annotated[dialects.JinaAsk, shown.asked("jina")], raw: Request) -> Response:
    """Jina's shape and nothing more; /v1/rerank has all its keys as well."""
    ranking = await _ranked(ask.request(), ask, raw)
    return Json(dialects.jina_answer(ask, ranking, service_of(raw).model))


@voyage.post("/voyage/v1/rerank", summary="Voyage's", responses=shown.answered(shown.VoyageAnswer))
async def voyage_rerank(ask: Annotated[dialects.VoyageAsk, shown.asked("voyage")], raw: Request) -> Response:
    """For Voyage's clients."""
    ranking = await _ranked(ask.request(), ask, raw)
    return Json(dialects.voyage_answer(ask.return_documents, ranking, service_of(raw).model))


@tei.post("/tei/rerank", summary="TEI's", responses=shown.answered(list[shown.TeiResult]))
async def tei_rerank(ask: Annotated[dialects.TeiAsk, shown.asked("tei")], raw: Request) -> Response:
    """For clients of Text Embeddings Inference: `texts` in, a bare array out."""
    ranking = await _ranked(ask.request(), ask, raw)
    return Json(dialects.tei_answer(ask, ranking))


def _of_tei(body: Any) -> str:
    return "tei" if isinstance(body, dict) and "texts" in body else "native"


BareAsk = Annotated[
    Annotated[dialects.TeiAsk, Tag("tei")] | Annotated[RerankAsk, Tag("native")],
    Discriminator(_of_tei),
    shown.asked("bare"),
]


@bare.post(
    "/rerank",
    summary="TEI's and vLLM's",
    responses=shown.answered(list[shown.TeiResult], *_RERANK_ANSWERS, streams=True),
)
async def bare_rerank(ask: BareAsk, raw: Request) -> Response:
    """A body with `texts` is TEI's and answered as TEI does; any other is the same as at /v1/rerank."""
    return await (tei_rerank(ask, raw) if isinstance(ask, dialects.TeiAsk) else rerank(ask, raw))


# Health, open to every load balancer. It says nothing of anybody's texts.

_HEALTHS = {200: "The server answers as it did at its start, or is busy.", 503: "It does not, or its engine is gone."}


@health.get(
    "/health",
    summary="Health",
    responses={code: {"model": shown.HealthAnswer, "description": text} for code, text in _HEALTHS.items()},
)
async def get_health(raw: Request) -> Response:
    """200 while a known pair still gets the score that it got at the start; else 503."""
    found = await service_of(raw).health()
    body = {"status": found.status, "canary": {"margin": found.canary_margin, "expected": found.canary_expected}}
    return Json(body, 200 if found.well else 503)
