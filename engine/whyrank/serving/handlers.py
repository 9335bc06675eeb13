"""From a checked body to its ranking: what the handlers of all routes share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from fastapi import Request

from whyrank.errors import InvalidRequest, WhyrankError
from whyrank.ranking import Ranking
from whyrank.request import RerankRequest
from whyrank.serving.context import service_of

__all__ = ["check_count", "rank", "rank_many", "with_tenant_salt"]


class _Counted(Protocol):
    @property
    def count(self) -> int: ...


class _Reading(Protocol):
    max_tokens_per_doc: int | None

    @property
    def refuses_truncation(self) -> bool: ...


class _Rankable(_Counted, _Reading, Protocol):
    """A body for one ranking, of whichever dialect."""

    def to_request(self) -> RerankRequest: ...


def check_count(body: _Counted, raw: Request) -> None:
    """Before requests are made of the body: a grid is far larger than its body, and a body may hold 250,000 documents."""
    service_of(raw).limits.check_count(body.count, "documents")


async def rank(body: _Rankable, raw: Request) -> Ranking:
    check_count(body, raw)
    request = with_tenant_salt(body.to_request(), raw)
    ranking = await service_of(raw).rerank(request, raw.state.whyrank_salt)
    _check_cut(ranking, body)
    return ranking


async def rank_many(pairs: Sequence[tuple[RerankRequest, _Reading]], raw: Request) -> list[Ranking | WhyrankError]:
    requests = [with_tenant_salt(request, raw) for request, _ in pairs]
    answers = await service_of(raw).rerank_many(requests, raw.state.whyrank_salt)
    for i, (answer, (_, body)) in enumerate(zip(answers, pairs, strict=True)):
        try:
            if isinstance(answer, Ranking):
                _check_cut(answer, body)
        except InvalidRequest as error:
            answers[i] = error
    return answers


def with_tenant_salt(request: RerankRequest, raw: Request) -> RerankRequest:
    """Tenants never share a cache, whatever salt they send."""
    salts = [salt for salt in (raw.state.whyrank_salt, request.cache_salt) if salt]
    return replace(request, cache_salt=":".join(salts) or None)


def _check_cut(ranking: Ranking, body: _Reading) -> None:
    row = ranking.first_cut if body.refuses_truncation else None
    if row is None or row.truncation is None:
        return
    remedy = "shorten them, " if body.max_tokens_per_doc is None else "shorten them, raise max_tokens_per_doc, "
    raise InvalidRequest(
        f"documents[{row.index}] and the query are longer than the model reads, {row.truncation.used_tokens} of "
        f"{row.truncation.original_tokens} tokens of the document: {remedy}or allow truncation"
    )
