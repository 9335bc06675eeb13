"""The wire shapes of other rerankers, byte for byte, as translations to and from RerankRequest and Ranking.

Each has a mount of its own (`/cohere/v2/rerank`, `/jina/v1/rerank`, `/voyage/v1/rerank`, `/tei/rerank`: the base URL of its
client plus our prefix), and the places where clients look without one: `/v2/rerank`, `/rerank`, `/score`. `/v1/rerank`, which
four of them claim, is the native route: its answer has the keys of Jina's, Cohere's v1 and vLLM's together.

What whyrank knows beyond a dialect rides along: options may be said by their native names, evidence comes as extra keys, and
headers name the documents that were cut or have no score (`row_headers`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from whyrank.errors import InvalidRequest, Overloaded, TooLarge
from whyrank.ranking import Ranking
from whyrank.request import RerankOptions, RerankRequest
from whyrank.types import RankedDocument, Truncation
from whyrank.wire import (
    Documents,
    FieldNames,
    OptionsAsk,
    RerankAsk,
    ResultBody,
    Strings,
    documents_of,
    side_given_up,
)

__all__ = [
    "BareAsk",
    "CohereAsk",
    "CohereV1Ask",
    "JinaAsk",
    "RelevantSpans",
    "TeiAsk",
    "VoyageAsk",
    "cohere_answer",
    "cohere_error",
    "cohere_v1_answer",
    "detail_error",
    "jina_answer",
    "row_headers",
    "tei_answer",
    "tei_error",
    "vllm_error",
    "voyage_answer",
]

_EVIDENCE_KEYS = ("contribution", "evidence", "finish", "grounding")
# Proxies give up over long headers.
_MOST_NAMED = 100


# Errors.


def vllm_error(status: int, kind: str, message: str, request_id: str) -> dict[str, Any]:
    """vLLM's and OpenAI's shape, with the keys where Cohere's, Jina's and Voyage's clients look for the message."""
    error = {"message": message, "type": kind, "param": None, "code": status, "request_id": request_id}
    return {"error": error, "message": message, "detail": message}


def cohere_error(status: int, kind: str, message: str, request_id: str) -> dict[str, Any]:
    return {"id": request_id, "message": f"invalid request: {message}" if status == 400 else message}


def detail_error(status: int, kind: str, message: str, request_id: str) -> dict[str, Any]:
    return {"detail": message}


def tei_error(status: int, kind: str, message: str, request_id: str) -> dict[str, Any]:
    names = {
        400: "Empty",
        401: "Unauthorized",
        413: "Validation",
        422: "Validation",
        429: "Overloaded",
        503: "Unhealthy",
    }
    return {"error": message, "error_type": names.get(status, "Backend")}


# Cohere.


class RelevantSpans(BaseModel):
    """Cohere's own, of Rerank v5: here what the evidence of a document rests on."""

    model_config = ConfigDict(strict=True)

    mode: Literal["enabled", "disabled"]
    threshold: float | None = Field(None, description="Of the similarity of a span and its evidence; 0.1 by default.")
    max_spans: int | None = Field(None, ge=0)

    def of(self, row: RankedDocument) -> list[dict[str, Any]]:
        grounding = row.evidence.grounding if row.evidence else None
        least = 0.1 if self.threshold is None else self.threshold
        found = [span for span in grounding.spans if span.similarity >= least] if grounding else []
        best = sorted(found, key=lambda span: -span.similarity)[: self.max_spans]
        return [{"start": span.start, "end": span.end, "score": span.similarity} for span in best]


class CohereAsk(OptionsAsk):
    """POST /v2/rerank."""

    model: str | None = None
    query: str
    documents: Documents
    relevant_spans: RelevantSpans | None = Field(None, description='Enabled, it means mode "evidence".')
    priority: int | None = Field(None, description="Accepted; calls take turns.")

    @property
    def spans(self) -> RelevantSpans | None:
        return self.relevant_spans if self.relevant_spans and self.relevant_spans.mode == "enabled" else None

    def request(self) -> RerankRequest:
        options = self.options()
        if self.spans:
            options["mode"] = "evidence"
        return RerankRequest.of(self.query, documents_of(self.documents), **options)


class CohereV1Ask(OptionsAsk):
    """POST /v1/rerank of old: documents may be objects, of which `rank_fields` are read."""

    model: str | None = None
    query: str
    documents: Documents
    rank_fields: FieldNames | None = None
    return_documents: bool | None = None
    max_chunks_per_doc: int | None = Field(
        None, description="Accepted; say truncation: windows to have all of it read."
    )

    def request(self) -> RerankRequest:
        return RerankRequest.of(self.query, documents_of(self.documents, self.rank_fields), **self.options())


def cohere_answer(ask: CohereAsk, ranking: Ranking, request_id: str) -> dict[str, Any]:
    def spans(row: RankedDocument) -> dict[str, Any]:
        found = ask.spans.of(row) if ask.spans else []
        return {"relevant_spans": found} if found else {}

    return {
        "id": request_id,
        "results": [
            {"index": row.index, "relevance_score": row.score} | spans(row) | _evidence(row) for row in _good(ranking)
        ],
        "meta": _cohere_meta("2", ask, ranking),
    }


def cohere_v1_answer(ask: CohereV1Ask, ranking: Ranking, request_id: str) -> dict[str, Any]:
    def document(row: RankedDocument) -> dict[str, Any]:
        original = ask.documents[row.index]
        return (
            {"document": {"text": original} if isinstance(original, str) else original} if ask.return_documents else {}
        )

    return {
        "id": request_id,
        "results": [
            document(row) | {"index": row.index, "relevance_score": row.score} | _evidence(row)
            for row in _good(ranking)
        ],
        "meta": _cohere_meta("1", ask, ranking),
    }


def _cohere_meta(version: str, ask: OptionsAsk, ranking: Ranking) -> dict[str, Any]:
    usage = ranking.usage
    meta = {
        "api_version": {"version": version, "is_experimental": False},
        "billed_units": {"search_units": 1},
        "tokens": {"input_tokens": usage.prompt_tokens, "output_tokens": usage.output_tokens},
        "cached_tokens": usage.cached_tokens,
    }
    warnings = ask.unknown() + _failures(ranking) + _cuts(ranking)
    return meta | ({"warnings": warnings} if warnings else {})


# Jina.


class JinaAsk(OptionsAsk):
    model: str | None = None
    query: str
    documents: Documents
    return_documents: bool = True

    def request(self) -> RerankRequest:
        return RerankRequest.of(self.query, documents_of(self.documents), **self.options())


def jina_answer(ask: JinaAsk, ranking: Ranking, model: str) -> dict[str, Any]:
    return {
        "model": model,
        "object": "list",
        "usage": {"total_tokens": _total(ranking)},
        "results": [
            {"index": row.index, "relevance_score": row.score}
            | ({"document": {"text": row.document.text}} if ask.return_documents else {})
            | _evidence(row)
            for row in _good(ranking)
        ],
    }


# Voyage.


class VoyageAsk(OptionsAsk):
    model: str | None = None
    query: str
    documents: Strings
    top_k: int | None = None
    return_documents: bool = False

    def request(self) -> RerankRequest:
        options = self.options()
        if self.top_k is not None:
            options["top_n"] = self.top_k
        return RerankRequest.of(self.query, self.documents, **options)


def voyage_answer(with_documents: bool, ranking: Ranking, model: str) -> dict[str, Any]:
    return {
        "object": "list",
        "data": [
            {"relevance_score": row.score, "index": row.index}
            | ({"document": row.document.text} if with_documents else {})
            | _evidence(row)
            for row in _good(ranking)
        ],
        "model": model,
        "usage": {"total_tokens": _total(ranking)},
    }


# Text Embeddings Inference.


class TeiEmpty(InvalidRequest):
    """TEI has a status of its own for it."""

    status = 400


class TeiAsk(OptionsAsk):
    query: str
    texts: Strings
    truncate: bool | None = Field(None, description="false: an over-long text is an error. As in TEI, true by default.")
    truncation_direction: Literal["left", "right", "Left", "Right"] = "right"
    raw_scores: bool = False
    return_text: bool = False

    @property
    def refuses_truncation(self) -> bool:
        return self.truncate is False or self.truncation is False

    def options(self) -> RerankOptions:
        return side_given_up(self.truncation_direction) | super().options()

    def request(self) -> RerankRequest:
        if not self.texts:
            raise TeiEmpty("`texts` cannot be empty")
        return RerankRequest.of(self.query, self.texts, **self.options())


def tei_answer(ask: TeiAsk, ranking: Ranking) -> list[dict[str, Any]]:
    return [
        {"index": row.index}
        | ({"text": row.document.text} if ask.return_text else {})
        | {"score": row.margin if ask.raw_scores else row.score}
        | _evidence(row)
        for row in _good(ranking)
    ]


# The bare /rerank, which TEI and vLLM have both.


def _of_tei(body: Any) -> str:
    return "tei" if isinstance(body, dict) and "texts" in body else "native"


BareAsk = Annotated[
    Annotated[TeiAsk, Tag("tei")] | Annotated[RerankAsk, Tag("native")],
    Discriminator(_of_tei),
]


# What they share.


def _good(ranking: Ranking) -> list[RankedDocument]:
    """These dialects know no document without a score. If nothing else is left, the first failure is the answer."""
    good = [row for row in ranking.results if row.error is None]
    failed = next((row.error for row in ranking.results if row.error is not None), None)
    if good or failed is None:
        return good
    message = _failures(ranking)[0]
    match failed.code:
        case "deadline" | "engine":
            raise Overloaded(message, 1)
        case "too_large":
            raise TooLarge(message)
        case _:
            raise InvalidRequest(message)


def _failures(ranking: Ranking) -> list[str]:
    return [f"documents[{row.index}]: {row.error.message}" for row in ranking.results if row.error is not None]


def _cuts(ranking: Ranking) -> list[str]:
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


def row_headers(ranking: Ranking) -> dict[str, str]:
    """What rows of a fixed shape cannot say, and which rows are not there: indexes of documents."""
    failed = sorted(row.index for row in ranking.results if row.error)
    headers = {"X-Whyrank-Truncated": [*_cut(ranking)], "X-Whyrank-Failed": failed}
    return {name: _named(indexes) for name, indexes in headers.items() if indexes}


def _named(indexes: list[int]) -> str:
    return ", ".join(map(str, indexes[:_MOST_NAMED])) + (", ..." if len(indexes) > _MOST_NAMED else "")


def _evidence(row: RankedDocument) -> dict[str, Any]:
    if row.evidence is None:
        return {}
    return ResultBody.of(row).model_dump(mode="json", include=set(_EVIDENCE_KEYS))


def _total(ranking: Ranking) -> int:
    return ranking.usage.prompt_tokens + ranking.usage.output_tokens
