"""What dialects share. Their rows have no place for errors and truncation, so headers name the documents that have them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from typing_extensions import TypedDict

from whyrank.errors import InvalidRequest, Overloaded, TooLarge
from whyrank.ranking import Ranking
from whyrank.request import RerankRequest
from whyrank.serving.guarded_route import ErrorStyle
from whyrank.serving.responses import JsonResponse
from whyrank.types import RankedDocument, Truncation
from whyrank.wire.requests import MODEL, Documents, OptionsRequest, Query, documents_of
from whyrank.wire.responses import EvidenceResponse, evidence_to_dict

__all__ = ["DETAIL", "IN_OPENAPI", "DetailError", "DialectRequest", "RowsResponse", "TotalTokens", "cut_warnings"]
__all__ += ["detail_error", "error_warnings", "evidence_of", "scored", "total_tokens"]

# Proxies give up over long headers.
_MAX_NAMED = 100
_MAX_WARNING = 1000

_HEADERS = {
    "X-Whyrank-Truncated": "Indexes of documents of which only a part was read; at most a hundred, then `...`.",
    "X-Whyrank-Failed": "Indexes of documents that have no score, likewise.",
    "X-Whyrank-Warnings": "What was ignored in the request, if the response has no field for that.",
}
IN_OPENAPI: dict[int | str, dict[str, Any]] = {
    200: {"headers": {name: {"description": text, "schema": {"type": "string"}} for name, text in _HEADERS.items()}}
}


class DialectRequest(OptionsRequest):
    model: str | None = MODEL
    query: Query
    documents: Documents

    @property
    def count(self) -> int:
        return len(self.documents)

    def to_request(self) -> RerankRequest:
        return RerankRequest.of(self.query, documents_of(self.documents), **self.options())


class RowsResponse(JsonResponse):
    """`content` in a dialect's own shape, with headers for what it cannot say of the ranking and of the request."""

    def __init__(self, content: Any, ranking: Ranking, warnings: Sequence[str] = ()) -> None:
        failed = sorted(row.index for row in ranking.results if row.error)
        indexes = {"X-Whyrank-Truncated": list(_cut(ranking)), "X-Whyrank-Failed": failed}
        headers = {name: _named(named) for name, named in indexes.items() if named}
        if warnings:  # a key may have any characters, a header only some
            headers["X-Whyrank-Warnings"] = json.dumps("; ".join(warnings))[1:-1][:_MAX_WARNING]
        super().__init__(content, headers=headers)


def _named(indexes: list[int]) -> str:
    return ", ".join(map(str, indexes[:_MAX_NAMED])) + (", ..." if len(indexes) > _MAX_NAMED else "")


def scored(ranking: Ranking) -> list[tuple[RankedDocument, float]]:
    """Rows with their scores. If no document has one, the first failure is raised, as the answer to the whole request."""
    rows = [(row, row.score) for row in ranking.results if row.error is None and row.score is not None]
    failed = next((row.error for row in ranking.results if row.error is not None), None)
    if rows or failed is None:
        return rows
    message = error_warnings(ranking)[0]
    match failed.code:
        case "deadline" | "engine":
            raise Overloaded(message, 1)
        case "too_large":
            raise TooLarge(message)
        case _:
            raise InvalidRequest(message)


def evidence_of(row: RankedDocument) -> EvidenceResponse:
    return {} if row.evidence is None else evidence_to_dict(row.evidence, "output_tokens")


class TotalTokens(TypedDict):
    total_tokens: int


def total_tokens(ranking: Ranking) -> TotalTokens:
    return {"total_tokens": ranking.usage.prompt_tokens + ranking.usage.output_tokens}


def error_warnings(ranking: Ranking) -> list[str]:
    return [f"documents[{row.index}]: {row.error.message}" for row in ranking.results if row.error is not None]


def cut_warnings(ranking: Ranking) -> list[str]:
    cut = _cut(ranking)
    parts = [
        f"documents[{index}] ({truncation.used_tokens} of {truncation.original_tokens} tokens)"
        for index, truncation in cut.items()
        if truncation.used_tokens < truncation.original_tokens
    ]
    warnings = [f"scored by a part of the text: {', '.join(parts)}"] if parts else []
    if of_query := max((truncation.query_tokens_cut for truncation in cut.values()), default=0):
        warnings.append(f"query: its last {of_query} tokens were not read")
    return warnings


def _cut(ranking: Ranking) -> dict[int, Truncation]:
    rows = sorted(ranking.results, key=lambda row: row.index)
    return {row.index: row.truncation for row in rows if not row.error and row.truncation and row.truncation.truncated}


class DetailError(TypedDict):
    detail: str


def detail_error(status: int, kind: str, message: str, request_id: str) -> DetailError:
    return {"detail": message}


DETAIL = ErrorStyle(detail_error, DetailError)
"""FastAPI's shape, which Jina's and Voyage's clients expect."""
