"""Requests, responses and errors of the native routes."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

from pydantic import AliasChoices, Field
from typing_extensions import TypedDict

from whyrank.errors import InvalidRequest
from whyrank.request import RerankOptions, RerankRequest
from whyrank.types import Document, DocumentError, Usage
from whyrank.wire import (
    Documents,
    FieldNames,
    OptionsRequest,
    RankingResponse,
    RowResponse,
    SidedRequest,
    Strings,
    TruncationResponse,
    UsageResponse,
    WireRequest,
    documents_of,
    usage_to_dict,
)

__all__ = [
    "BatchRequest",
    "BatchResponse",
    "FailedResponse",
    "ManyResponse",
    "NativeError",
    "NativeFault",
    "NativeRequest",
    "RerankDocument",
    "RerankKeys",
    "RerankResponse",
    "RerankRow",
    "ScoreRequest",
    "ScoreResponse",
    "ScoreRow",
    "TotalUsage",
    "native_error",
    "total_usage",
]


class NativeRequest(OptionsRequest, SidedRequest):
    """One query or several, over the same documents."""

    query: str | None = None
    queries: Strings | None = None
    documents: Documents
    rank_fields: FieldNames | None = Field(None, description="Cohere's: which fields of objects are read.")
    top_n: int | None = Field(None, description="So many results, the best; 0, as vLLM has it: all.")
    top_k: int | None = Field(None, description="Voyage's top_n; who says it gets Voyage's answer.")
    model: str | None = Field(None, description="Answered by the model that is served, whatever this says.")
    return_documents: bool = True
    stream: bool = False

    @property
    def count(self) -> int:
        return len(self.documents) * len(self.queries or [""])

    @property
    def is_voyages(self) -> bool:
        """Voyage's client always sends its own top_k, and truncation as a flag."""
        return self.top_k is not None or isinstance(self.truncation, bool)

    def to_request(self) -> RerankRequest:
        return self.to_requests()[0]

    def to_requests(self) -> list[RerankRequest]:
        """One for each query."""
        if (self.query is None) == (self.queries is None):
            raise InvalidRequest("give either 'query' or 'queries'")
        if self.queries is not None and not self.queries:
            raise InvalidRequest("queries is empty: give at least one")
        documents = documents_of(self.documents, self.rank_fields)
        options = self.options() | ({} if self.top_k is None else RerankOptions(top_n=self.top_k))
        if options.get("top_n") == 0:
            options["top_n"] = None
        return [
            RerankRequest.of(query, documents, **options)
            for query in ([self.query] if self.query is not None else self.queries or [])
        ]


class BatchRequest(WireRequest):
    """Requests that have nothing to do with each other, in one body. Each has its own answer or error."""

    requests: Annotated[list[NativeRequest], Field(fail_fast=True, max_length=1000)]

    @property
    def count(self) -> int:
        return sum(one.count for one in self.requests)


class ScoreRequest(SidedRequest):
    """Texts to score against texts: one with one, one with many, or pair by pair; with `grid`, each with each."""

    queries: str | Strings = Field(validation_alias=AliasChoices("queries", "text_1", "data_1", "query"))
    documents: str | dict[str, Any] | Documents = Field(
        validation_alias=AliasChoices("documents", "text_2", "data_2", "items")
    )
    grid: bool = False
    model: str | None = Field(None, description="Answered by the model that is served, whatever this says.")

    @property
    def count(self) -> int:
        queries, documents = _as_list(self.queries), _as_list(self.documents)
        return len(queries) * len(documents) if self.grid else max(len(queries), len(documents))

    def pairs(self) -> tuple[list[str], list[Document], list[tuple[int, int]]]:
        """Queries, documents, and which are scored together."""
        queries, documents = _as_list(self.queries), documents_of(_as_list(self.documents))
        if not queries or not documents:
            raise InvalidRequest(f"{'documents' if queries else 'queries'} is empty: give at least one")
        if self.grid:
            return queries, documents, [(q, d) for q in range(len(queries)) for d in range(len(documents))]
        if len(queries) == 1:
            return queries, documents, [(0, d) for d in range(len(documents))]
        if len(queries) == len(documents):
            return queries, documents, [(i, i) for i in range(len(queries))]
        raise InvalidRequest(
            f"{len(queries)} queries and {len(documents)} documents: give one query, as many as documents, or grid: true"
        )


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


class TotalUsage(UsageResponse):
    total_tokens: int


def total_usage(usage: Usage) -> TotalUsage:
    return {**usage_to_dict(usage), "total_tokens": usage.prompt_tokens + usage.output_tokens}


class RerankDocument(TypedDict):
    text: str
    id: NotRequired[str]
    title: NotRequired[str]


class RerankKeys(TypedDict, total=False):
    """What other rerankers' clients look for in a row, beside its own keys."""

    relevance_score: float
    document: RerankDocument


class RerankRow(RowResponse, RerankKeys):
    pass


class RerankResponse(RankingResponse):
    """`warnings` names keys that were ignored."""

    id: str
    object: str
    results: list[RerankRow]  # type: ignore[misc]
    usage: TotalUsage  # type: ignore[misc]
    warnings: NotRequired[list[str]]


class NativeFault(TypedDict):
    message: str
    type: str
    param: None
    code: int
    request_id: str


class FailedResponse(TypedDict):
    error: NativeFault


class ManyResponse(TypedDict):
    id: str
    object: str
    rankings: list[RerankResponse | FailedResponse]


class BatchResponse(TypedDict):
    id: str
    object: str
    answers: list[RerankResponse | FailedResponse]


class ScoreRow(TypedDict):
    index: int
    object: str
    score: float | None
    margin: float | None
    label_mass: float | None
    truncation: TruncationResponse | None
    neutralised: bool
    error: DocumentError | None


class ScoreResponse(TypedDict):
    """`scores`, of a grid: a row for each query."""

    id: str
    object: str
    created: int
    model: str
    data: list[ScoreRow]
    usage: TotalUsage
    scores: NotRequired[list[list[float | None]]]
    warnings: NotRequired[list[str]]


class NativeError(TypedDict):
    error: NativeFault
    message: str
    detail: str


def native_error(status: int, kind: str, message: str, request_id: str) -> NativeError:
    """vLLM's and OpenAI's shape, with the keys where Cohere's, Jina's and Voyage's clients look for the message."""
    fault: NativeFault = {"message": message, "type": kind, "param": None, "code": status, "request_id": request_id}
    return {"error": fault, "message": message, "detail": message}
