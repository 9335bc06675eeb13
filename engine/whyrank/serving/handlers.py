"""What all routes share: how they are made, and the way from requests to rankings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from fastapi import APIRouter, Depends, Request

from whyrank.errors import InvalidRequest, WhyrankError
from whyrank.ranking import Ranking
from whyrank.request import RerankRequest
from whyrank.serving import dialects, openapi
from whyrank.serving.guarded_route import ErrorStyle, JsonResponse, route_class, service_of
from whyrank.wire import ReadingAsk

__all__ = ["check_count", "new_router", "rank", "rank_many", "with_row_headers", "with_tenant_salt"]


def new_router(tag: str, style: ErrorStyle, errors: dict[int | str, dict[str, Any]], **by_key: ErrorStyle) -> APIRouter:
    key = [Depends(openapi.api_key)]
    return APIRouter(route_class=route_class(style, by_key), tags=[tag], responses=errors, dependencies=key)


class _Counted(Protocol):
    @property
    def count(self) -> int: ...


def check_count(ask: _Counted, raw: Request) -> None:
    """Before requests are made of it: a grid is far larger than its body."""
    service_of(raw).limits.check_count(ask.count, "documents")


async def rank(request: RerankRequest, ask: ReadingAsk, raw: Request) -> Ranking:
    ranking = await service_of(raw).rerank(with_tenant_salt(request, raw), raw.state.whyrank_salt)
    _check_cut(ranking, ask)
    return ranking


async def rank_many(pairs: Sequence[tuple[RerankRequest, ReadingAsk]], raw: Request) -> list[Ranking | WhyrankError]:
    requests = [with_tenant_salt(request, raw) for request, _ in pairs]
    answers = await service_of(raw).rerank_many(requests, raw.state.whyrank_salt)
    for i, (answer, (_, ask)) in enumerate(zip(answers, pairs, strict=True)):
        try:
            if isinstance(answer, Ranking):
                _check_cut(answer, ask)
        except InvalidRequest as error:
            answers[i] = error
    return answers


def _check_cut(ranking: Ranking, ask: ReadingAsk) -> None:
    row = ranking.first_cut if ask.refuses_truncation else None
    if row is None or row.truncation is None:
        return
    remedy = "shorten them, " if ask.max_tokens_per_doc is None else "shorten them, raise max_tokens_per_doc, "
    raise InvalidRequest(
        f"documents[{row.index}] and the query are longer than the model reads, {row.truncation.used_tokens} of "
        f"{row.truncation.original_tokens} tokens of the document: {remedy}or allow truncation"
    )


def with_row_headers(body: Any, ranking: Ranking) -> JsonResponse:
    """An answer of another's shape; headers tell what it cannot."""
    return JsonResponse(body, headers=dialects.row_headers(ranking))


def with_tenant_salt(request: RerankRequest, raw: Request) -> RerankRequest:
    """Tenants never share a cache, whatever salt they ask for."""
    salts = [salt for salt in (raw.state.whyrank_salt, request.cache_salt) if salt]
    return replace(request, cache_salt=":".join(salts) or None)
