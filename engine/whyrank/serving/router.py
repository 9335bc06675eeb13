"""The routes. Each turns a body into requests, asks the service, and turns rankings into a body."""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import RedirectResponse, StreamingResponse

from whyrank import __version__
from whyrank.config import DEMO, EngineConfig
from whyrank.errors import InvalidRequest, TooLarge, WhyrankError
from whyrank.events import Event
from whyrank.fan_out import fan_out
from whyrank.prompting.formats import builtin_formats
from whyrank.ranking import Ranking
from whyrank.request import RerankRequest
from whyrank.serving import compat, dialects, openapi
from whyrank.serving.guarded_route import ErrorStyle, JsonResponse, request_id, service_of, to_http_error
from whyrank.serving.handlers import check_count, new_router, rank, rank_many, with_row_headers, with_tenant_salt
from whyrank.types import RankedDocument, Usage
from whyrank.wire import (
    BatchAsk,
    RankingBody,
    RerankAsk,
    ResultBody,
    ScoreAsk,
    UsageBody,
    event_document,
    to_json,
)

__all__ = ["NATIVE", "routers"]

NATIVE = ErrorStyle(dialects.vllm_error)

# Voyage's client falls over an error that is an object, and always says its top_k.
native = new_router("whyrank", NATIVE, openapi.errors("native", "detail"), top_k=compat.DETAIL)
bare = new_router(
    "Text Embeddings Inference and vLLM",
    NATIVE,
    openapi.errors("native", "detail", "tei"),
    texts=compat.TEI,
    top_k=compat.DETAIL,
)
health = APIRouter(tags=["whyrank"])
routers = (native, bare, compat.cohere, compat.jina, compat.voyage, compat.tei, health)

# Rows of answers: this many take a few milliseconds, about what a thread takes to begin.
_MAX_ROWS_IN_LOOP = 100
_PLAYGROUND = Path(__file__).parent / "playground"
_MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}


# Native.


_RERANK_ANSWERS = (openapi.RerankAnswer, openapi.ManyAnswer, openapi.VoyageAnswer)


@native.post("/v1/rerank", summary="Rerank", responses=openapi.with_headers(*_RERANK_ANSWERS, streams=True))
async def rerank(ask: Annotated[RerankAsk, openapi.request_example("rerank")], raw: Request) -> Response:
    """Score documents against a query and order them, best first; in mode "evidence" also say why for the best.

    Takes what Jina's, Cohere's v1 and vLLM's clients send, and answers with the keys of all three. A client of Voyage is
    known by its `top_k` or its true or false `truncation`, and answered in its own shape.
    """
    check_count(ask, raw)
    if ask.stream:
        return await _streamed(ask, raw)
    _check_echo(ask, raw)
    if ask.queries is None:
        ranking = await rank(ask.requests()[0], ask, raw)
        if ask.top_k is not None or isinstance(ask.truncation, bool):
            documents = ask.return_documents if "return_documents" in ask.model_fields_set else False
            return with_row_headers(dialects.voyage_answer(documents, ranking, service_of(raw).model), ranking)
        (answer,) = await _answers([(ranking, ask)], raw)
        return JsonResponse(answer)
    rankings = await rank_many([(request, ask) for request in ask.requests()], raw)
    answers = await _answers([(ranking, ask) for ranking in rankings], raw)
    return JsonResponse({"id": f"rerank-{request_id(raw)}", "object": "list", "rankings": answers})


def _check_echo(ask: RerankAsk, raw: Request) -> None:
    """An answer for each query, each with all documents in it, may be a thousand times as large as its body."""
    queries, limit = len(ask.queries or [""]), service_of(raw).limits.body_mib << 20
    ids = sum(_echo_size(document, "id") for document in ask.documents)
    texts = sum(_echo_size(document, "text", "title") for document in ask.documents) if ask.return_documents else 0
    if (ids + texts) * queries > limit:
        remedy = 'say "return_documents": false' if ids * queries <= limit else "give shorter ids"
        raise TooLarge(
            f"the answer would hold {ids + texts} characters of documents for each of {queries} queries, more than "
            f"{limit} in all: {remedy}, or split the request"
        )
    raw.state.whyrank_body_size = max(raw.state.whyrank_body_size, (ids + texts) * queries)


def _echo_size(document: str | dict[str, Any], *keys: str) -> int:
    if isinstance(document, str):
        return len(document) if "text" in keys else 0
    return sum(len(value) for key in keys if isinstance(value := document.get(key), str))


@native.post("/v1/rerank/stream", summary="Rerank, as it happens", responses=openapi.answered(streams=True))
async def rerank_stream(ask: Annotated[RerankAsk, openapi.request_example("stream")], raw: Request) -> Response:
    """The same as server-sent events: `score` for each document, `ranking`, `delta` and `evidence`, and `done` with all."""
    check_count(ask, raw)
    return await _streamed(ask, raw)


@native.post("/v1/rerank/batch", summary="Rerank several", responses=openapi.answered(openapi.BatchAnswer))
async def rerank_batch(ask: Annotated[BatchAsk, openapi.request_example("batch")], raw: Request) -> Response:
    """Several requests in one body, each with its own answer or error, in order."""
    check_count(ask, raw)
    checked: list[RerankRequest | InvalidRequest] = []
    for i, one in enumerate(ask.requests):
        try:
            if one.query is None or one.stream:
                raise InvalidRequest(f"requests[{i}]: in a batch, each has one 'query' and no 'stream'")
            checked.append(one.requests()[0])
        except InvalidRequest as error:
            checked.append(error)
    good = [
        (request, one) for request, one in zip(checked, ask.requests, strict=True) if isinstance(request, RerankRequest)
    ]
    answered = iter(await rank_many(good, raw))
    rankings = [next(answered) if isinstance(request, RerankRequest) else request for request in checked]
    answers = await _answers(list(zip(rankings, ask.requests, strict=True)), raw)
    return JsonResponse({"id": f"rerank-{request_id(raw)}", "object": "list", "answers": answers})


@native.post("/v1/score", summary="Score pairs", responses=openapi.answered(openapi.ScoreAnswer))
@native.post("/score", include_in_schema=False)
async def score(ask: Annotated[ScoreAsk, openapi.request_example("score")], raw: Request) -> Response:
    """Scores of pairs, in the order of the pairs; the shape of vLLM's /score, with margin and label mass."""
    check_count(ask, raw)
    queries, documents, pairs = ask.pairs()
    by_query: dict[int, list[int]] = {}
    for query, document in pairs:
        by_query.setdefault(query, []).append(document)
    options = ask.options()
    requests = [
        RerankRequest.of(queries[query], [documents[i] for i in of_it], **options) for query, of_it in by_query.items()
    ]
    rankings = await rank_many([(request, ask) for request in requests], raw)
    rows: dict[tuple[int, int], RankedDocument] = {}
    usage = Usage()
    for (query, of_it), ranking in zip(by_query.items(), rankings, strict=True):
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
    return JsonResponse(answer | _warnings(ask.unknown()))


def _score_row(index: int, row: RankedDocument) -> dict[str, Any]:
    body = ResultBody.of(row).model_dump(
        mode="json", include={"margin", "label_mass", "truncation", "neutralised", "error"}
    )
    return {"index": index, "object": "score", "score": row.score, **body}


@native.get("/v1/formats", summary="Prompts", responses=openapi.answered(openapi.FormatsAnswer))
async def formats(raw: Request) -> Response:
    """The prompt that is served, and all that come with whyrank."""
    served = service_of(raw).plan.format
    known = builtin_formats() | {served.name: served}
    return JsonResponse(
        {
            "served": served.fingerprint,
            "writes_evidence": service_of(raw).writes,
            "formats": [fmt.model_dump(mode="json") | {"fingerprint": fmt.fingerprint} for fmt in known.values()],
        }
    )


_MAIN_ROUTES = {
    "rerank": "/v1/rerank",
    "score": "/v1/score",
    "playground": "/playground",
    "docs": "/docs",
    "health": "/health",
    "metrics": "/metrics",
}


@native.get("/", include_in_schema=False)
async def root(raw: Request) -> Response:
    """For those who only know the server's address. It wants the key as /playground does: it names the model, too, and where
    it let a browser through, the page behind it would ask for the key all the same."""
    if "text/html" in raw.headers.get("accept", ""):
        return RedirectResponse(f"{raw.scope.get('root_path', '')}/playground")
    service = service_of(raw)
    served = {"model": service.model, "prompt": service.plan.format.fingerprint}
    return JsonResponse({"name": "whyrank", "version": __version__} | served | {"routes": _MAIN_ROUTES})


@native.get("/version", summary="Versions", responses=openapi.answered(openapi.VersionAnswer))
async def version(raw: Request) -> Response:
    """vLLM's under the key of its own route of this name, and whyrank's. A server that needs no vLLM names only its own."""
    own = {"whyrank": __version__}
    if service_of(raw).plan.route == "encoder":
        return JsonResponse(own)
    return JsonResponse({"version": importlib.import_module("vllm").__version__} | own)


@native.get("/playground", include_in_schema=False)
async def playground(raw: Request) -> Response:
    return _playground_file(_PLAYGROUND / "index.html")


@native.get("/playground/about", include_in_schema=False)
async def playground_about(raw: Request) -> Response:
    """What the page shows in its head. `embedded`: the small model that comes with whyrank, which costs nothing to ask."""
    service = service_of(raw)
    return JsonResponse(
        {
            "model": service.model,
            "prompt": service.plan.format.fingerprint,
            "dtype": service.runtime.facts().get("dtype"),
            "writes_evidence": service.writes,
            "embedded": service.plan.config.source == EngineConfig(DEMO).source,
        }
    )


@native.get("/playground/{name}", include_in_schema=False)
async def playground_part(name: str, raw: Request) -> Response:
    path = next((path for path in _PLAYGROUND.iterdir() if path.name == name), None)
    if path is None:
        raise HTTPException(404, "the playground has no such file")
    return _playground_file(path)


def _playground_file(path: Path) -> Response:
    # The package's files keep their dates over an update: no browser may guess from them how long a copy is good.
    headers = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
    return Response(path.read_bytes(), media_type=_MEDIA_TYPES[path.suffix], headers=headers)


@native.post("/playground/stream", include_in_schema=False)
async def playground_stream(ask: RerankAsk, raw: Request) -> Response:
    """/v1/rerank/stream where a browser's own password prompt is good enough as a key; vLLM guards /v1 with bearer tokens."""
    check_count(ask, raw)
    return await _streamed(ask, raw)


async def _streamed(ask: RerankAsk, raw: Request) -> Response:
    if ask.query is None:
        raise InvalidRequest("a stream answers one 'query'")
    if ask.refuses_truncation:
        raise InvalidRequest("truncation is false: a stream sends scores before it knows; leave one of them out")
    (request,) = ask.requests()
    events = _ahead_of_its_reader(
        service_of(raw).events(with_tenant_salt(request, raw), live=True, tenant=raw.state.whyrank_salt)
    )
    # What refuses the request does so before its first event, while there is a status to say it with.
    first = await anext(events)
    return StreamingResponse(
        _frames(first, events, raw), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


async def _ahead_of_its_reader(events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    """The same events, made as fast as the engine goes: who does not read takes no place in it."""

    async def make(_: int, emit: Callable[[Event], None]) -> None:
        async with aclosing(events):
            async for event in events:
                emit(event)

    async with aclosing(fan_out(make, 1, 1)) as made:
        async for _, event in made:
            yield event


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
    warnings = ask.unknown()
    if service_of(raw).lacks_calibration(ranking.prompt):
        warnings.append("no calibrated_score: the server's calibration was made with another instruction")
    return body | own | _warnings(warnings)


async def _answers(rankings: Sequence[tuple[Ranking | WhyrankError, RerankAsk]], raw: Request) -> list[dict[str, Any]]:
    """Many rows are made in a thread: a thousand of them would hold up the event loop."""

    def make() -> list[dict[str, Any]]:
        return [_answer_or_error(ranking, ask, raw) for ranking, ask in rankings]

    rows = sum(len(ranking.results) for ranking, _ in rankings if isinstance(ranking, Ranking))
    return make() if rows <= _MAX_ROWS_IN_LOOP else await asyncio.to_thread(make)


def _answer_or_error(ranking: Ranking | WhyrankError, ask: RerankAsk, raw: Request) -> dict[str, Any]:
    if isinstance(ranking, Ranking):
        return _answer(ranking, ask, raw)
    return {"error": _fault(ranking, raw)}


def _fault(error: Exception, raw: Request) -> dict[str, Any]:
    fault: dict[str, Any] = dialects.vllm_error(*to_http_error(raw, error), request_id(raw))["error"]
    return fault


def _usage(usage: Usage) -> dict[str, int]:
    body = UsageBody.model_validate(usage).model_dump()
    return body | {"total_tokens": usage.prompt_tokens + usage.output_tokens}


def _warnings(warnings: list[str]) -> dict[str, Any]:
    return {"warnings": warnings} if warnings else {}


# TEI and vLLM have claimed the same place.


@bare.post(
    "/rerank",
    summary="TEI's and vLLM's",
    responses=openapi.with_headers(list[openapi.TeiResult], *_RERANK_ANSWERS, streams=True),
)
async def bare_rerank(ask: Annotated[dialects.BareAsk, openapi.request_example("bare")], raw: Request) -> Response:
    """A body with `texts` is TEI's and answered as TEI does; any other is the same as at /v1/rerank."""
    return await (compat.tei_rerank(ask, raw) if isinstance(ask, dialects.TeiAsk) else rerank(ask, raw))


# Health, open to every load balancer. It says nothing of anybody's texts.

_HEALTHS = {200: "The server answers as it did at its start, or is busy.", 503: "It does not, or its engine is gone."}


@health.get(
    "/health",
    summary="Health",
    responses={code: {"model": openapi.HealthAnswer, "description": text} for code, text in _HEALTHS.items()},
)
async def get_health(raw: Request) -> Response:
    """200 while a known pair still gets the score that it got at the start; else 503."""
    found = await service_of(raw).health()
    body = {"status": found.status, "canary": {"margin": found.canary_margin, "expected": found.canary_expected}}
    return JsonResponse(body, 200 if found.well else 503)
