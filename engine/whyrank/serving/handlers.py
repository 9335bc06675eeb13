"""From a checked body to its ranking: shared by the handlers of all routes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from fastapi import Request

from whyrank.errors import InvalidRequest, WhyrankError
from whyrank.ranking import Ranking
from whyrank.request import RerankRequest
from whyrank.serving.context import service_of
from whyrank.wire.requests import ReadingRequest

__all__ = [
    "UnknownModel",
    "check_body",
    "check_model",
    "model_of",
    "rank",
    "rank_many",
    "warnings_of",
    "with_tenant_salt",
]


class CountedBody(Protocol):
    @property
    def count(self) -> int: ...
    def unknown_keys(self) -> list[str]: ...


class _RankRequest(CountedBody, Protocol):
    """The body of a request for one ranking, in any dialect."""

    max_tokens_per_doc: int | None

    @property
    def refuses_truncation(self) -> bool: ...
    def to_request(self) -> RerankRequest: ...


class UnknownModel(InvalidRequest):
    status = 404


def model_of(body: object) -> str | None:
    """The model that a request names, in dialects that have it."""
    return getattr(body, "model", None)


def warnings_of(body: CountedBody, raw: Request) -> list[str]:
    """What was ignored in a body: unknown keys, and a model that is not served."""
    model, service = model_of(body), service_of(raw)
    if model is None or service.serves(model):
        return body.unknown_keys()
    return [f"model {model[:80]!r} is not served: {service.model!r} answered", *body.unknown_keys()]


def check_model(body: CountedBody, raw: Request) -> None:
    """Refuse other models' names if the server is strict about them."""
    model, service = model_of(body), service_of(raw)
    if service.strict_model and model is not None and not service.serves(model):
        raise UnknownModel(f"model {model[:80]!r} is not served here: give {service.model!r}, or leave it out")


def check_body(body: CountedBody, raw: Request) -> None:
    """Checked before requests are made from it: a body may hold 250,000 documents, and a grid is far larger than its body."""
    service_of(raw).limits.check_count(body.count, "documents")
    check_model(body, raw)


async def rank(body: _RankRequest, raw: Request) -> Ranking:
    check_body(body, raw)
    request = with_tenant_salt(body.to_request(), raw)
    ranking = await service_of(raw).rerank(request, raw.state.whyrank_salt, model_of(body))
    if body.refuses_truncation:
        _check_cut(ranking, body.max_tokens_per_doc)
    return ranking


async def rank_many(
    pairs: Sequence[tuple[RerankRequest, ReadingRequest]], raw: Request
) -> list[Ranking | WhyrankError]:
    requests = [(with_tenant_salt(request, raw), model_of(body)) for request, body in pairs]
    rankings = await service_of(raw).rerank_many(requests, raw.state.whyrank_salt)
    for i, (ranking, (_, body)) in enumerate(zip(rankings, pairs, strict=True)):
        try:
            if body.refuses_truncation and isinstance(ranking, Ranking):
                _check_cut(ranking, body.max_tokens_per_doc)
        except InvalidRequest as error:
            rankings[i] = error
    return rankings


def with_tenant_salt(request: RerankRequest, raw: Request) -> RerankRequest:
    """Different tenants never share a cache, whatever salt they send."""
    salts = [salt for salt in (raw.state.whyrank_salt, request.cache_salt) if salt]
    return replace(request, cache_salt=":".join(salts) or None)


def _check_cut(ranking: Ranking, max_tokens_per_doc: int | None) -> None:
    row = ranking.first_cut
    if row is None or row.truncation is None:
        return
    remedy = "shorten them, " if max_tokens_per_doc is None else "shorten them, raise max_tokens_per_doc, "
    raise InvalidRequest(
        f"documents[{row.index}] and the query are longer than the model reads, {row.truncation.used_tokens} of "
        f"{row.truncation.original_tokens} tokens of the document: {remedy}or allow truncation"
    )
