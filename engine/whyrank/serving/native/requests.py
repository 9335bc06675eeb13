"""Requests of the native routes."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AliasChoices, Field

from whyrank.errors import InvalidRequest
from whyrank.request import RerankRequest
from whyrank.wire.requests import (
    MODEL,
    Documents,
    FieldNames,
    OptionsRequest,
    Query,
    Strings,
    VllmReadingRequest,
    WireRequest,
    documents_of,
    top_k_options,
)

__all__ = ["BatchRequest", "NativeRequest", "ScoreRequest"]


class NativeRequest(OptionsRequest, VllmReadingRequest):
    """One query or several, with the same documents."""

    query: Query | None = None
    queries: Strings | None = None
    documents: Documents
    rank_fields: FieldNames | None = Field(None, description="Cohere's: which fields of objects are read.")
    top_k: int | None = Field(
        None, description="Voyage's top_n; a request that has it, even as null, gets Voyage's response."
    )
    model: str | None = MODEL
    return_documents: bool = True
    stream: bool = False

    @property
    def count(self) -> int:
        return len(self.documents) * len(self.queries or [""])

    def to_request(self) -> RerankRequest:
        return self.to_requests()[0]

    def to_requests(self) -> list[RerankRequest]:
        """One request for each query."""
        if (self.query is None) == (self.queries is None):
            raise InvalidRequest("give either 'query' or 'queries'")
        if self.queries is not None and not self.queries:
            raise InvalidRequest("queries is empty: give at least one")
        documents = documents_of(self.documents, self.rank_fields)
        options = self.options() | top_k_options(self.top_k)
        return [
            RerankRequest.of(query, documents, **options)
            for query in ([self.query] if self.query is not None else self.queries or [])
        ]


class BatchRequest(WireRequest):
    """Independent requests in one body. Each has its own answer or error."""

    requests: Annotated[list[NativeRequest], Field(fail_fast=True, max_length=1000)]

    @property
    def count(self) -> int:
        return sum(one.count for one in self.requests)


class ScoreRequest(VllmReadingRequest):
    """Texts to score against texts: one with one, one with many, or in pairs; with `grid`, every query with every document."""

    queries: str | Strings = Field(validation_alias=AliasChoices("queries", "text_1", "data_1", "query"))
    documents: str | dict[str, Any] | Documents = Field(
        validation_alias=AliasChoices("documents", "text_2", "data_2", "items")
    )
    grid: bool = False
    model: str | None = MODEL

    @property
    def count(self) -> int:
        queries, documents = _as_list(self.queries), _as_list(self.documents)
        return len(queries) * len(documents) if self.grid else max(len(queries), len(documents))

    def to_requests(self) -> list[RerankRequest]:
        """The requests whose documents, concatenated, are the pairs in order."""
        queries, documents = _as_list(self.queries), documents_of(_as_list(self.documents))
        if not queries or not documents:
            raise InvalidRequest(f"{'documents' if queries else 'queries'} is empty: give at least one")
        if self.grid or len(queries) == 1:
            return [RerankRequest.of(query, documents, **self.options()) for query in queries]
        if len(queries) == len(documents):
            pairs = zip(queries, documents, strict=True)
            return [RerankRequest.of(query, [document], **self.options()) for query, document in pairs]
        raise InvalidRequest(
            f"{len(queries)} queries and {len(documents)} documents: give one query, as many as documents, or grid: true"
        )


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
