"""The server's JSON as types: the inverse of wire.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar, cast

from whyrank import errors
from whyrank.errors import InvalidRequest, Overloaded, PermanentError, RetryableError, Unreachable, WhyrankError
from whyrank.events import Event, EvidenceDelta, EvidenceDone, Finished, Ranked, Scored
from whyrank.ranking import Ranking
from whyrank.types import (
    Document,
    DocumentError,
    Evidence,
    Grounding,
    RankedDocument,
    SourceSpan,
    Truncation,
    Unsupported,
    Usage,
    Window,
)

__all__ = ["error_of", "event_of", "ranking_of"]

T = TypeVar("T")


def ranking_of(body: Mapping[str, Any], documents: Sequence[Document]) -> Ranking:
    """Raises KeyError, TypeError or ValueError where the body is not what whyrank's server sends."""
    return Ranking(
        tuple(_row(result, documents) for result in body["results"]),
        _made(Usage, body["usage"]),
        body["model"],
        body["prompt"],
        _made(Usage, body["evidence_usage"]),
    )


def event_of(name: str, data: Mapping[str, Any], documents: Sequence[Document]) -> Event:
    match name:
        case "score":
            return Scored(_row(data, documents))
        case "ranking":
            return Ranked(ranking_of(data, documents))
        case "delta":
            return EvidenceDelta(data["index"], data["part"], data["text"])
        case "evidence":
            return EvidenceDone(_row(data, documents))
        case "done":
            return Finished(ranking_of(data, documents))
    raise ValueError(f"no event is called {name!r}")


def _row(body: Mapping[str, Any], documents: Sequence[Document]) -> RankedDocument:
    index = body["index"]
    names = ("rank", "score", "margin", "label_mass", "calibrated_score", "neutralised")
    return RankedDocument(
        index,
        documents[index],
        **{name: body[name] for name in names if name in body},
        truncation=_truncation(body["truncation"]),
        error=_made(DocumentError, body["error"]) if body["error"] else None,
        evidence=_evidence(body) if "finish" in body else None,
    )


def _truncation(body: Mapping[str, Any] | None) -> Truncation | None:
    if body is None:
        return None
    return _made(Truncation, body, window=_made(Window, body["window"]) if body["window"] else None)


def _evidence(body: Mapping[str, Any]) -> Evidence:
    grounding = body["grounding"]
    if grounding is not None:
        grounding = _made(
            Grounding,
            grounding,
            spans=tuple(_made(SourceSpan, span) for span in grounding["spans"]),
            unsupported=tuple(_made(Unsupported, claim) for claim in grounding["unsupported"]),
            flags=tuple(grounding["flags"]),
        )
    return _made(Evidence, body, grounding=grounding)


def _made(kind: type[T], body: Mapping[str, Any], **parts: Any) -> T:
    """A dataclass from the keys that it knows; a newer server may send more."""
    names = [field.name for field in fields(cast(Any, kind)) if field.name in body]
    return kind(**{name: body[name] for name in names} | parts)


def error_of(status: int, body: Any, retry_after: str | None, request_id: str | None) -> WhyrankError:
    """The exception that the server meant, by its name where it gave one, else by the status."""
    told = body.get("error") if isinstance(body, Mapping) else None
    told = told if isinstance(told, Mapping) else {}
    message = str(told.get("message") or f"the server answered with status {status}")
    kind = getattr(errors, str(told.get("type")), None)
    if status == 429 or kind is Overloaded:
        seconds = int(retry_after) if retry_after is not None and retry_after.isdecimal() else 1
        error: WhyrankError = Overloaded(message, seconds)
    elif isinstance(kind, type) and issubclass(kind, PermanentError | RetryableError):
        error = kind(message)
    elif status >= 500 or status == 408:
        error = Unreachable(message)
    else:
        error = {401: errors.Unauthorized, 403: errors.Unauthorized, 413: errors.TooLarge}.get(status, InvalidRequest)(
            message
        )
    error.status, error.request_id = status, request_id or told.get("request_id")
    return error
