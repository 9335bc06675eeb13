"""The server's JSON as types: the inverse of wire.py."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Any, TypeVar, cast

from whyrank import errors
from whyrank.errors import (
    InvalidRequest,
    Overloaded,
    PermanentError,
    RetryableError,
    TooLarge,
    Unauthorized,
    Unreachable,
    WhyrankError,
)
from whyrank.events import Event, EvidenceDelta, EvidenceDone, Finished, Ranked, Scored
from whyrank.ranking import Ranking
from whyrank.types import (
    CheckedSentence,
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
    """Raises KeyError, TypeError, ValueError or AttributeError where the body is not what whyrank's server sends."""
    rows = tuple(_row(result, documents) for result in body["results"])
    if len({row.index for row in rows}) < len(rows):
        raise ValueError("a document has two rows")
    usage, evidence_usage = _made(Usage, body["usage"]), _made(Usage, body["evidence_usage"])
    return Ranking(rows, usage, str(body["model"]), str(body["prompt"]), evidence_usage)


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
    index, error = body["index"], body["error"]
    if type(index) is not int or not 0 <= index < len(documents):
        raise ValueError(f"no document has the index {index!r:.20}")
    if error is None and not (_finite(body["score"]) and _finite(body["margin"])):
        raise ValueError(f"documents[{index}] has neither a score nor an error")
    return RankedDocument(
        index,
        documents[index],
        body.get("rank"),
        body["score"],
        body["margin"],
        body["label_mass"],
        _truncation(body["truncation"]),
        body["neutralised"],
        None if error is None else _made(DocumentError, error),
        _evidence(body) if "finish" in body else None,
        body.get("calibrated_score"),
    )


def _finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


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
            sentences=tuple(_made(CheckedSentence, sentence) for sentence in grounding.get("sentences", ())),
        )
    return _made(Evidence, body, grounding=grounding)


def _made(kind: type[T], body: Mapping[str, Any], **parts: Any) -> T:
    """A dataclass from the keys that it knows; a newer server may send more."""
    return kind(**{name: body[name] for name in _names(cast(Any, kind)) if name in body} | parts)


@cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def error_of(status: int, body: Any, retry_after: str | None, request_id: str | None) -> WhyrankError:
    """The exception that the server meant, by its name where it gave one, else by the status."""
    fault = body.get("error") if isinstance(body, Mapping) else None
    fault = fault if isinstance(fault, Mapping) else {}
    message = str(fault.get("message") or _by_status(status))
    seconds = int(retry_after) if retry_after is not None and retry_after.isdecimal() else None
    kind = getattr(errors, str(fault.get("type")), None)
    error: WhyrankError
    if status == 429 or kind is Overloaded:
        error = Overloaded(message, 1 if seconds is None else seconds)
    elif isinstance(kind, type) and issubclass(kind, PermanentError | RetryableError):
        error = kind(message)
    elif status >= 500 or status == 408:
        error = Unreachable(message)
    else:
        error = _KINDS.get(status, InvalidRequest)(message)
    if isinstance(error, RetryableError):
        error.retry_after = error.retry_after if seconds is None else seconds
    error.status, error.request_id = status, request_id or fault.get("request_id")
    return error


_KINDS = {401: Unauthorized, 403: Unauthorized, 413: TooLarge}


def _by_status(status: int) -> str:
    where = ": is this the base URL of a whyrank server?" if status == 404 else ""
    return f"the server answered with status {status}{where}"
