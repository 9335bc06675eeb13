"""Reranking: one query, several queries, or several requests in one body."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, NotRequired

from fastapi import Request, Response
from typing_extensions import TypedDict

from whyrank.errors import InvalidRequest, TooLarge, WhyrankError
from whyrank.ranking import Ranking
from whyrank.request import RerankRequest
from whyrank.serving.compat import rows
from whyrank.serving.compat.cohere import CohereMeta, cohere_meta
from whyrank.serving.compat.voyage import VoyageResponse, is_voyages, voyage_response
from whyrank.serving.context import request_id, service_of
from whyrank.serving.examples import OTHER_QUERY, QUERY, RERANK, TEXTS, examples
from whyrank.serving.handlers import check_body, check_model, rank, rank_many, warnings_of
from whyrank.serving.native.errors import Failed, failed, native_router
from whyrank.serving.native.requests import BatchRequest, NativeRequest
from whyrank.serving.native.stream import EVENT_STREAM, stream_response
from whyrank.serving.responses import JsonResponse
from whyrank.types import RankedDocument, Usage
from whyrank.wire.responses import RankingResponse, RowResponse, UsageResponse, row_to_dict, usage_to_dict

__all__ = ["IN_OPENAPI", "RERANK_MODEL", "TotalUsage", "rerank", "router", "total_usage"]

router = native_router()

# Rows of a response: more of them take longer to convert than a thread takes to start.
_MAX_ROWS_IN_LOOP = 100


class RerankDocument(TypedDict):
    text: str
    id: NotRequired[str]
    title: NotRequired[str]


class RerankKeys(TypedDict, total=False):
    """What clients of other rerankers look for in a row, beside our own keys."""

    relevance_score: float | None
    document: RerankDocument


class RerankRow(RowResponse, RerankKeys):
    pass


class TotalUsage(UsageResponse):
    total_tokens: int


def total_usage(usage: Usage) -> TotalUsage:
    return {**usage_to_dict(usage), "total_tokens": usage.prompt_tokens + usage.output_tokens}


class RerankResponse(RankingResponse):
    """`warnings` names keys that were ignored. `meta` is for Cohere's v1, in the response to a request with one query."""

    results: list[RerankRow]  # type: ignore[misc]
    usage: TotalUsage  # type: ignore[misc]
    id: str
    object: str
    warnings: NotRequired[list[str]]
    meta: NotRequired[CohereMeta]


class ManyResponse(TypedDict):
    id: str
    object: str
    rankings: list[RerankResponse | Failed]


class BatchResponse(TypedDict):
    id: str
    object: str
    answers: list[RerankResponse | Failed]


RERANK_MODEL: Any = RerankResponse | ManyResponse | VoyageResponse
IN_OPENAPI: dict[int | str, dict[str, Any]] = {200: rows.IN_OPENAPI[200] | {"content": EVENT_STREAM}}

_EXAMPLES = examples(
    {
        "Strings": RERANK,
        "Objects": {"query": QUERY, "documents": [{"id": "a", "title": "Water", "text": TEXTS[0]}], "top_n": 1},
        "Evidence": RERANK | {"mode": "evidence", "evidence_top_n": 1, "deadline_ms": 2000},
        "Several queries": {"queries": [QUERY, OTHER_QUERY], "documents": TEXTS},
    }
)
_BATCH_EXAMPLES = examples({"Two": {"requests": [RERANK, RERANK | {"query": OTHER_QUERY}]}})


@router.post("/v1/rerank", summary="Rerank", response_model=RERANK_MODEL, responses=IN_OPENAPI)
async def rerank(body: Annotated[NativeRequest, _EXAMPLES], raw: Request) -> Response:
    """Score documents against a query and order them, best first; in mode "evidence" also say why for the best.

    Accepts what clients of Jina, Cohere v1 and vLLM send, and responds with the keys of all three. A Voyage request is
    recognised by its client's User-Agent, by `top_k` or a boolean `truncation`, or by the name of a Voyage model without
    `top_n`, and gets Voyage's response format.
    """
    if body.stream:
        return await stream_response(body, raw)
    check_body(body, raw)
    _check_echo(body, raw)
    if body.queries is None:
        ranking = await rank(body, raw)
        if is_voyages(raw):
            with_documents = "return_documents" in body.model_fields_set and body.return_documents
            return rows.RowsResponse(voyage_response(ranking, with_documents), ranking, warnings_of(body, raw))
        (response,) = await _responses([ranking], [body], raw, with_meta=True)
        return rows.RowsResponse(response, ranking)
    rankings = await rank_many([(request, body) for request in body.to_requests()], raw)
    responses = await _responses(rankings, [body] * len(rankings), raw)
    return JsonResponse({"id": f"rerank-{request_id(raw)}", "object": "list", "rankings": responses})


@router.post("/v1/rerank/batch", summary="Rerank several", response_model=BatchResponse)
async def rerank_batch(body: Annotated[BatchRequest, _BATCH_EXAMPLES], raw: Request) -> Response:
    """Several requests in one body, each with its own answer or error, in order."""
    check_body(body, raw)
    checked = [_checked(one, f"requests[{i}]", raw) for i, one in enumerate(body.requests)]
    valid = [
        (request, one)
        for request, one in zip(checked, body.requests, strict=True)
        if isinstance(request, RerankRequest)
    ]
    ranked = iter(await rank_many(valid, raw))
    rankings = [next(ranked) if isinstance(request, RerankRequest) else request for request in checked]
    responses = await _responses(rankings, body.requests, raw)
    return JsonResponse({"id": f"rerank-{request_id(raw)}", "object": "list", "answers": responses})


def _checked(body: NativeRequest, where: str, raw: Request) -> RerankRequest | InvalidRequest:
    try:
        if body.query is None or body.stream:
            raise InvalidRequest(f"{where}: in a batch, each request has one 'query' and no 'stream'")
        check_model(body, raw)
        return body.to_request()
    except InvalidRequest as error:
        return error


def _check_echo(body: NativeRequest, raw: Request) -> None:
    """Limit responses that repeat all documents for each query: they may be a thousand times as large as the request."""
    queries, limit = len(body.queries or [""]), service_of(raw).limits.body_mib << 20
    ids = sum(_echo_size(document, "id") for document in body.documents)
    texts = sum(_echo_size(document, "text", "title") for document in body.documents) if body.return_documents else 0
    if (ids + texts) * queries > limit:
        remedy = 'say "return_documents": false' if ids * queries <= limit else "give shorter ids"
        raise TooLarge(
            f"the answer would contain {ids + texts} characters of documents for each of {queries} queries, more than "
            f"{limit} in all: {remedy}, or split the request"
        )
    raw.state.whyrank_body_size = max(raw.state.whyrank_body_size, (ids + texts) * queries)


def _echo_size(document: str | dict[str, Any], *keys: str) -> int:
    if isinstance(document, str):
        return len(document) if "text" in keys else 0
    return sum(len(value) for key in keys if isinstance(value := document.get(key), str))


async def _responses(
    rankings: Sequence[Ranking | WhyrankError], bodies: Sequence[NativeRequest], raw: Request, with_meta: bool = False
) -> list[RerankResponse | Failed]:
    """Many rows are converted in a thread: a thousand of them would block the event loop."""

    def make() -> list[RerankResponse | Failed]:
        return [
            _response(ranking, body, raw, with_meta) if isinstance(ranking, Ranking) else failed(ranking, raw)
            for ranking, body in zip(rankings, bodies, strict=True)
        ]

    count = sum(len(ranking.results) for ranking in rankings if isinstance(ranking, Ranking))
    return make() if count <= _MAX_ROWS_IN_LOOP else await asyncio.to_thread(make)


def _response(ranking: Ranking, body: NativeRequest, raw: Request, with_meta: bool) -> RerankResponse:
    response: RerankResponse = {
        "results": [_row(row, body) for row in ranking.results],
        "usage": total_usage(ranking.usage),
        "evidence_usage": usage_to_dict(ranking.evidence_usage),
        "model": ranking.model,
        "prompt": ranking.prompt,
        "degraded": ranking.degraded,
        "id": f"rerank-{request_id(raw)}",
        "object": "list",
    }
    warnings = warnings_of(body, raw)
    if service_of(raw).lacks_calibration(ranking.model, ranking.prompt):
        warnings.append("no calibrated_score: the server's calibration was made with another instruction or model")
    if warnings:
        response["warnings"] = warnings
    if with_meta:
        response["meta"] = cohere_meta("1", ranking, warnings)
    return response


def _row(row: RankedDocument, body: NativeRequest) -> RerankRow:
    more: RerankKeys = {"relevance_score": body.shown_score(row)}
    if body.return_documents:
        document: RerankDocument = {"text": row.document.text}
        if row.document.id is not None:
            document["id"] = row.document.id
        if row.document.title is not None:
            document["title"] = row.document.title
        more["document"] = document
    return {**row_to_dict(row), **more}
