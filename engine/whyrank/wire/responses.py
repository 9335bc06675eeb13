"""Responses as JSON, in both directions: rows, rankings and events, for HTTP, the command line and files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, cast

from pydantic import (
    TypeAdapter,
)
from typing_extensions import TypedDict

from whyrank.events import Event, EvidenceDelta, EvidenceDone, Finished, Ranked, Scored
from whyrank.ranking import Ranking
from whyrank.types import (
    Document,
    DocumentError,
    Evidence,
    Finish,
    Grounding,
    RankedDocument,
    ScoredSpan,
    TruncationPolicy,
    Usage,
    Window,
)

__all__ = [
    "EvidenceResponse",
    "RankingResponse",
    "RowResponse",
    "ScoreKeys",
    "TruncationResponse",
    "UsageResponse",
    "event_from_dict",
    "event_to_dict",
    "evidence_to_dict",
    "ranking_from_dict",
    "ranking_to_dict",
    "row_to_dict",
    "score_to_dict",
    "to_json",
    "usage_to_dict",
]


def to_json(value: Any) -> bytes:
    """A text may contain lone surrogates, which JSON can express as escapes and UTF-8 cannot."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


# Responses: from the frozen types to values for json.dumps.


class TruncationResponse(TypedDict):
    original_tokens: int
    used_tokens: int
    policy: TruncationPolicy
    truncated: bool
    query_tokens_cut: int
    window: Window | None


class UsageResponse(TypedDict):
    prompt_tokens: int
    cached_tokens: int
    computed_tokens: int
    output_tokens: int


class _WrittenResponse(TypedDict, total=False):
    contribution: str
    evidence: str
    finish: Finish
    grounding: Grounding | None
    contribution_grounding: Grounding | None


class EvidenceVariant(_WrittenResponse):
    """Another wording of the same evidence."""

    output_tokens: NotRequired[int]


class EvidenceResponse(_WrittenResponse, total=False):
    """Included if evidence was requested and the document was chosen for it. `variants` are included if there are any."""

    variants: list[EvidenceVariant]


class ScoreKeys(TypedDict):
    """How one document was read, and the result."""

    score: float | None
    margin: float | None
    label_mass: float | None
    truncation: TruncationResponse | None
    neutralised: bool
    error: DocumentError | None


class RowResponse(ScoreKeys, EvidenceResponse):
    """One document. `calibrated_score` is included if the engine has a calibration for the call's prompt and instruction."""

    index: int
    id: str | None
    rank: int | None
    calibrated_score: NotRequired[float]
    output_tokens: NotRequired[int]
    spans: NotRequired[list[ScoredSpan]]
    spans_limited: NotRequired[bool]


class RankingResponse(TypedDict):
    """`degraded`: time or the network cost a row its score or its evidence."""

    results: list[RowResponse]
    usage: UsageResponse
    evidence_usage: UsageResponse
    model: str
    prompt: str
    degraded: bool


_ROW, _USAGE, _EVIDENCE = TypeAdapter(RankedDocument), TypeAdapter(Usage), TypeAdapter(Evidence)
_SPANS = TypeAdapter(tuple[ScoredSpan, ...])
_ERROR, _WINDOW = TypeAdapter(DocumentError | None), TypeAdapter(Window | None)


def _pick(shape: Any, value: object) -> Any:
    """The attributes of `value` that are keys of `shape`, in its order."""
    return {name: getattr(value, name) for name in shape.__annotations__}


def row_to_dict(row: RankedDocument) -> RowResponse:
    body = {"index": row.index, "id": row.id, "rank": row.rank, **score_to_dict(row)}
    if row.calibrated_score is not None:
        body["calibrated_score"] = row.calibrated_score
    if row.spans is not None:
        body |= {"spans": _SPANS.dump_python(row.spans, mode="json"), "spans_limited": row.spans_limited}
    return cast(RowResponse, body if row.evidence is None else body | evidence_to_dict(row.evidence))


def score_to_dict(row: RankedDocument) -> ScoreKeys:
    body: ScoreKeys = _pick(ScoreKeys, row)
    if row.truncation is not None:
        window = _WINDOW.dump_python(row.truncation.window)
        body["truncation"] = _pick(TruncationResponse, row.truncation) | {"window": window}
    body["error"] = _ERROR.dump_python(row.error)
    return body


def evidence_to_dict(evidence: Evidence, *excluded: str) -> EvidenceResponse:
    body: EvidenceResponse = _EVIDENCE.dump_python(evidence, mode="json", exclude={"variants", *excluded})
    if evidence.variants:
        body["variants"] = [cast(EvidenceVariant, evidence_to_dict(one, *excluded)) for one in evidence.variants]
    return body


def usage_to_dict(usage: Usage) -> UsageResponse:
    body: UsageResponse = _pick(UsageResponse, usage)
    return body


def ranking_to_dict(ranking: Ranking) -> RankingResponse:
    body: RankingResponse = _pick(RankingResponse, ranking)
    body["results"] = [row_to_dict(row) for row in ranking.results]
    body["usage"], body["evidence_usage"] = usage_to_dict(ranking.usage), usage_to_dict(ranking.evidence_usage)
    return body


def event_to_dict(event: Event) -> dict[str, Any]:
    """`event` is the event's name, `data` the row, the ranking or the piece of text."""
    match event:
        case Scored(row):
            return {"event": "score", "data": row_to_dict(row)}
        case Ranked(ranking):
            return {"event": "ranking", "data": ranking_to_dict(ranking)}
        case EvidenceDelta(index, part, text):
            return {"event": "delta", "data": {"index": index, "part": part, "text": text}}
        case EvidenceDone(row):
            return {"event": "evidence", "data": row_to_dict(row)}
        case Finished(ranking):
            return {"event": "done", "data": ranking_to_dict(ranking)}


# Responses, read by the client. Keys that a newer server adds are ignored.


def ranking_from_dict(body: Mapping[str, Any], documents: Sequence[Document]) -> Ranking:
    """Raises KeyError, TypeError, ValueError or AttributeError if the body is not one that whyrank's server sends."""
    rows = tuple(_row_from_dict(row, documents) for row in body["results"])
    if len({row.index for row in rows}) < len(rows):
        raise ValueError("a document has two rows")
    usage, evidence_usage = (_USAGE.validate_python(body[name]) for name in ("usage", "evidence_usage"))
    return Ranking(rows, usage, str(body["model"]), str(body["prompt"]), evidence_usage)


def _row_from_dict(body: Mapping[str, Any], documents: Sequence[Document]) -> RankedDocument:
    index = body["index"]
    if type(index) is not int or not 0 <= index < len(documents):
        raise ValueError(f"no document has the index {index!r:.20}")
    scored = _is_finite(body["score"]) and _is_finite(body["margin"])
    # An order may come without scores.
    placed = type(body["rank"]) is int and body["score"] is None and body["margin"] is None
    if body["error"] is None and not (scored or placed):
        raise ValueError(f"documents[{index}] has neither a score nor an error")
    evidence = body if "finish" in body else None
    return _ROW.validate_python({**body, "document": documents[index], "evidence": evidence})


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def event_from_dict(name: str, data: Mapping[str, Any], documents: Sequence[Document]) -> Event:
    match name:
        case "score":
            return Scored(_row_from_dict(data, documents))
        case "ranking":
            return Ranked(ranking_from_dict(data, documents))
        case "delta":
            return EvidenceDelta(data["index"], data["part"], data["text"])
        case "evidence":
            return EvidenceDone(_row_from_dict(data, documents))
        case "done":
            return Finished(ranking_from_dict(data, documents))
    raise ValueError(f"no event is called {name!r}")
