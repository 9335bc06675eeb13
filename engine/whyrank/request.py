"""What a caller may ask, and every check that needs no model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, Unpack, get_args

from whyrank.errors import InvalidRequest
from whyrank.types import Document, DocumentLike, TruncationPolicy

__all__ = ["Mode", "RerankOptions", "RerankRequest"]

Mode = Literal["score", "evidence"]
# Smaller ones would make thousands of prompts of one document.
_LEAST_WINDOW = 128


class RerankOptions(TypedDict, total=False):
    """What a caller may say beside query and documents; RerankRequest says what each means."""

    instruction: str | None
    top_n: int | None
    min_score: float | None
    truncation: TruncationPolicy
    max_tokens_per_doc: int | None
    mode: Mode
    evidence_top_n: int
    evidence_min_score: float
    max_contribution_tokens: int | None
    max_evidence_tokens: int | None
    temperature: float
    deadline_ms: float | None
    cache_salt: str | None


@dataclass(frozen=True, slots=True)
class RerankRequest:
    """One query and its candidates. Build it with `of`, which checks it.

    top_n and min_score shorten the answer, never the scoring. A document of more than max_tokens_per_doc tokens is over-long,
    just as one that the model has no room for: truncation says what of it is given up. In mode "evidence" the best
    evidence_top_n documents of it with at least evidence_min_score (0.5: below, the model itself answers no) are continued
    into contribution and evidence, each of at most so many tokens (None: the prompt file's). With deadline_ms the answer is
    what exists by then. Calls share cached prefixes only with calls of the same cache_salt: timing then tells tenants nothing
    of each other.
    """

    query: str
    documents: tuple[Document, ...]
    instruction: str | None = None
    top_n: int | None = None
    min_score: float | None = None
    truncation: TruncationPolicy = "tail"
    max_tokens_per_doc: int | None = None
    mode: Mode = "score"
    evidence_top_n: int = 5
    evidence_min_score: float = 0.5
    max_contribution_tokens: int | None = None
    max_evidence_tokens: int | None = None
    temperature: float = 0.0
    deadline_ms: float | None = None
    cache_salt: str | None = None

    @classmethod
    def of(cls, query: str, documents: Iterable[DocumentLike], **options: Unpack[RerankOptions]) -> RerankRequest:
        if not isinstance(query, str):
            raise InvalidRequest(f"query is a {type(query).__name__}: give a string")
        if not query.strip():
            raise InvalidRequest("query is empty: give the text that documents should be relevant to")
        if isinstance(documents, str | Mapping) or not isinstance(documents, Iterable):
            raise InvalidRequest(f"documents is a {type(documents).__name__}: give a list of documents")
        checked = tuple(Document.of(value, f"documents[{i}]") for i, value in enumerate(documents))
        if not checked:
            raise InvalidRequest("documents is empty: give at least one document")
        request = cls(query, checked, **options)
        for name, (accepts, wanted) in _OPTIONS.items():
            if not accepts(value := getattr(request, name)):
                raise InvalidRequest(f"{name} is {value!r:.60}: {wanted}")
        if request.truncation == "windows" and (request.max_tokens_per_doc or _LEAST_WINDOW) < _LEAST_WINDOW:
            raise InvalidRequest(
                f"max_tokens_per_doc is {request.max_tokens_per_doc}: with truncation 'windows' it is the size of a window, "
                f"and at least {_LEAST_WINDOW}"
            )
        return request


def _number(value: Any) -> bool:
    return type(value) in (int, float)


def _whole(value: Any) -> bool:
    return type(value) is int and value >= 1


def _share(value: Any) -> bool:
    return _number(value) and 0 <= value <= 1


def _salt(value: Any) -> bool:
    """The engine gets it as UTF-8, which has no half characters."""
    return isinstance(value, str) and value != "" and value.encode("utf-8", "ignore").decode() == value


def _or_none(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or accepts(value)


def _one_of(choices: Any) -> tuple[Callable[[Any], bool], str]:
    return (lambda value: value in get_args(choices)), f"choose from {', '.join(get_args(choices))}"


_OPTIONS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "instruction": (_or_none(lambda value: isinstance(value, str)), "give a string"),
    "top_n": (_or_none(_whole), "give a whole number of at least 1, or leave it out"),
    "min_score": (_or_none(_share), "give a number between 0 and 1, or leave it out"),
    "truncation": _one_of(TruncationPolicy),
    "max_tokens_per_doc": (_or_none(_whole), "give a whole number of at least 1, or leave it out"),
    "mode": _one_of(Mode),
    "evidence_top_n": (_whole, "give a whole number of at least 1"),
    "evidence_min_score": (_share, "give a number between 0 and 1"),
    "max_contribution_tokens": (_or_none(_whole), "give a whole number of at least 1, or leave it out"),
    "max_evidence_tokens": (_or_none(_whole), "give a whole number of at least 1, or leave it out"),
    "cache_salt": (_or_none(_salt), "give a string of whole characters that is not empty"),
    "temperature": (lambda value: _number(value) and 0 <= value <= 2, "give a number between 0 and 2"),
    "deadline_ms": (_or_none(lambda value: _number(value) and value > 0), "give a positive number of milliseconds"),
}
