"""How much work is let in at once, and when to come back. No I/O."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Self

from whyrank.errors import InvalidRequest, Overloaded, TooLarge
from whyrank.requests import RerankRequest
from whyrank.types import Document, DocumentError

__all__ = ["Admission", "Limits"]

_MIB = 1 << 20
# Bodies are in memory before anyone knows how many documents they hold: so many of the largest at once.
_BODIES_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server takes. Each can be set by the environment variable WHYRANK_MAX_<NAME>."""

    documents: int = 1000
    """Documents of one request, and queries times documents of a grid."""
    characters: int = 1_000_000
    """Characters of one document, query or instruction."""
    body_mib: int = 32
    """Size of a request's body."""
    waiting_documents: int = 4000
    """Documents of all requests that are being answered."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        asked = {}
        for field in fields(cls):
            name = f"WHYRANK_MAX_{field.name.upper()}"
            if (value := environment.get(name)) is not None:
                if not value.isdecimal() or int(value) < 1:
                    raise InvalidRequest(f"{name} is {value!r}: give a whole number of at least 1")
                asked[field.name] = int(value)
        return cls(**asked)

    def check(self, request: RerankRequest) -> None:
        self.check_count(len(request.documents), "documents")
        for name, text in (("query", request.query), ("instruction", request.instruction or "")):
            if len(text) > self.characters:
                raise TooLarge(self._too_long(name, len(text)))

    def refusal(self, document: Document) -> DocumentError | None:
        """An over-long document costs its own row, not the call."""
        size = len(document.content)
        return DocumentError("too_large", self._too_long("the document", size)) if size > self.characters else None

    def _too_long(self, name: str, size: int) -> str:
        return (
            f"{name} has {size} characters; this server takes {self.characters} (WHYRANK_MAX_CHARACTERS). "
            "Cut it: the model reads only its first few thousand tokens anyway"
        )

    def check_count(self, count: int, what: str) -> None:
        if count > self.documents:
            raise TooLarge(
                f"{count} {what} in one request; this server takes {self.documents} (WHYRANK_MAX_DOCUMENTS). "
                "Split the request"
            )

    def check_body(self, size: int) -> None:
        if size > self.body_mib * _MIB:
            raise TooLarge(
                f"the body is larger than the {self.body_mib} MiB that this server takes (WHYRANK_MAX_BODY_MIB). "
                "Split the request"
            )


class Admission:
    """Counts the documents and the bytes inside; who comes when it is full is sent away at once and told when to return."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._done: deque[tuple[float, int]] = deque(maxlen=64)
        self._bytes = 0
        self.documents = 0

    @contextmanager
    def admitted(self, documents: int) -> Iterator[None]:
        """Whoever finds nobody inside is always let in."""
        if self.documents and self.documents + documents > self._limits.waiting_documents:
            raise Overloaded(
                f"{self.documents} documents are being worked on and this request has {documents}; "
                f"the server takes {self._limits.waiting_documents} at once. Try again later",
                self._retry_after(),
            )
        self.documents += documents
        try:
            yield
        finally:
            self.documents -= documents
            self._done.append((self._clock(), documents))

    @contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """Bytes of a body, from before it is read until its answer is given."""
        if self._bytes and self._bytes + size > _BODIES_AT_ONCE * self._limits.body_mib * _MIB:
            raise Overloaded("too many large requests are being answered. Try again later", self._retry_after())
        self._bytes += size
        try:
            yield
        finally:
            self._bytes -= size

    def _retry_after(self) -> int:
        """Seconds until what is inside should be done, at the pace of late."""
        if not self._done:
            return 1
        seconds = self._clock() - self._done[0][0]
        pace = sum(documents for _, documents in self._done) / max(seconds, 0.1)
        return min(60, max(1, math.ceil(self.documents / max(pace, 0.1))))
