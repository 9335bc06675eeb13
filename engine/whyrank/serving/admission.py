"""Limits how much work is let in at once, and tells refused callers when to come back. No I/O."""

from __future__ import annotations

import math
import os
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Self

from whyrank.errors import InvalidRequest, Overloaded, TooLarge
from whyrank.pipeline.turns import Tenant
from whyrank.request import RerankRequest
from whyrank.types import Document, DocumentError

__all__ = ["Admission", "Limits"]

_MIB = 1 << 20
# Bodies are in memory before their document count is known: allow this many of the largest, in all and per sender.
_BODIES_AT_ONCE, _BODIES_OF_ONE = 8, 2
# It is sent to the engine with every prompt.
_MAX_SALT = 512


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server accepts. Each limit can be set by the environment variable WHYRANK_MAX_<NAME>."""

    documents: int = 1000
    """Documents of one request; for a grid, queries times documents."""
    characters: int = 1_000_000
    """Characters of one document, query or instruction."""
    body_mib: int = 32
    """Size of a request's body."""
    waiting_documents: int = 4000
    """Documents of all requests in progress."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        values = {}
        for field in fields(cls):
            name = f"WHYRANK_MAX_{field.name.upper()}"
            if (value := environment.get(name)) is not None:
                if not value.isdecimal() or int(value) < 1:
                    raise InvalidRequest(f"{name} is {value!r}: give a whole number of at least 1")
                values[field.name] = int(value)
        return cls(**values)

    def check(self, request: RerankRequest) -> None:
        self.check_count(len(request.documents), "documents")
        for name, text in (("query", request.query), ("instruction", request.instruction or "")):
            if len(text) > self.characters:
                raise TooLarge(self._too_long(name, len(text)))
        if request.cache_salt is not None and len(request.cache_salt) > _MAX_SALT:
            raise InvalidRequest(f"cache_salt has {len(request.cache_salt)} characters: give at most {_MAX_SALT}")

    def refusal(self, document: Document) -> DocumentError | None:
        """An over-long document fails only its own row, not the call."""
        size = len(document.content)
        return DocumentError("too_large", self._too_long("the document", size)) if size > self.characters else None

    def _too_long(self, name: str, size: int) -> str:
        return (
            f"{name} has {size} characters; this server accepts at most {self.characters} (WHYRANK_MAX_CHARACTERS). "
            "Shorten it: the model reads only its first few thousand tokens anyway"
        )

    def check_count(self, count: int, what: str) -> None:
        if count > self.documents:
            raise TooLarge(
                f"{count} {what} in one request; this server accepts at most {self.documents} (WHYRANK_MAX_DOCUMENTS). "
                "Split the request"
            )

    def check_body(self, size: int) -> None:
        if size > self.body_mib * _MIB:
            raise TooLarge(
                f"the body is larger than the {self.body_mib} MiB that this server accepts (WHYRANK_MAX_BODY_MIB). "
                "Split the request"
            )


class Admission:
    """Counts the documents and bytes in progress. When the server is full, a request is refused at once and told when to retry.

    `tenants`: how many there are. Each has a reserved share of the documents, and may hold at most half of all, so that one
    with much work, or with calls that never end, takes nothing from the others. In the engine, tenants with few calls
    do not wait for the many of another.

    `processes`: how many HTTP processes the server has. Connections are spread evenly over them, so each accepts an equal
    share of what the server does."""

    def __init__(
        self, limits: Limits, tenants: int = 1, processes: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limits = limits
        self._tenants = max(1, tenants)
        self._processes = processes
        self._max_documents = max(1, limits.waiting_documents // processes)
        self._bodies_of_one = max(1, _BODIES_OF_ONE // processes)
        self._bodies_at_once = max(2, _BODIES_AT_ONCE // processes)
        self._clock = clock
        self._pace = _Pace()
        self._bytes = Counter[str]()
        self._documents = Counter[str | None]()
        self._calls = 0
        self._tenant = defaultdict[str | None, Tenant](Tenant)
        self._empty = threading.Event()
        self._empty.set()

    @property
    def documents(self) -> int:
        return self._documents.total()

    def wait_until_empty(self, seconds: float) -> bool:
        """Blocks the calling thread, which must not be the event loop's. False if the time ran out first."""
        return self._empty.wait(seconds)

    @contextmanager
    def admitted(self, documents: int, tenant: str | None = None) -> Iterator[Tenant | None]:
        """Yields the tenant, if there are several. While nothing is in progress, any request is admitted."""
        inside = self.documents
        if inside and not self._has_room(documents, tenant):
            raise Overloaded(
                f"{inside} documents are in progress and this request has {documents}; "
                f"the server accepts {self._max_documents} at once"
                f"{f' in each of its {self._processes} processes' if self._processes > 1 else ''}"
                f"{', at most half of them from one API key' if self._tenants > 1 else ''}. Try again later",
                self._retry_after(),
            )
        began = self._pace.begin(self._clock(), inside)
        self._documents[tenant] += documents
        self._calls += 1
        self._empty.clear()
        try:
            yield self._tenant[tenant] if self._tenants > 1 else None
        finally:
            self._documents[tenant] -= documents
            self._calls -= 1
            if not self._calls:
                self._empty.set()
            self._pace.end(self._clock(), self.documents, began, documents)

    def _has_room(self, documents: int, tenant: str | None) -> bool:
        limit, wanted = self._max_documents, self._documents[tenant] + documents
        if self._tenants == 1:
            return wanted <= limit
        return wanted <= limit // self._tenants or (wanted <= limit // 2 and self.documents + documents <= limit)

    @contextmanager
    def holding(self, sender: str) -> Iterator[Callable[[int], None]]:
        """Accounts for a body's bytes from their arrival until its response is sent. Yields a function to call with the size
        of each part.

        A sender may hold two of the largest bodies, all senders together eight, if there is one process. The first part is
        always accepted."""
        held, largest = 0, self._limits.body_mib * _MIB

        def hold(size: int) -> None:
            nonlocal held
            before, together = self._bytes[sender], self._bytes.total()
            if before and (
                before + size > self._bodies_of_one * largest or together + size > self._bodies_at_once * largest
            ):
                raise Overloaded("too many large requests are in progress. Try again later", self._retry_after())
            self._bytes[sender] += size
            held += size

        try:
            yield hold
        finally:
            self._bytes[sender] -= held
            if not self._bytes[sender]:
                del self._bytes[sender]

    def _retry_after(self) -> int:
        """Seconds until the work in progress should be done, at the recent pace."""
        pace = self._pace.documents_per_second(self._clock(), self.documents)
        return 1 if pace is None else min(60, max(1, math.ceil(self.documents / pace)))


class _Pace:
    """Recent documents per second, counting only busy time: idle time says nothing about the speed."""

    def __init__(self) -> None:
        self._done: deque[tuple[float, int]] = deque(maxlen=64)
        self._busy, self._since = 0.0, 0.0

    def _busy_until(self, now: float, inside: int) -> float:
        return self._busy + (now - self._since if inside else 0.0)

    def begin(self, now: float, inside: int) -> float:
        """The server's total busy time when this call began. `inside`: documents in progress before it."""
        if not inside:
            self._since = now
        return self._busy_until(now, inside)

    def end(self, now: float, inside: int, began: float, documents: int) -> None:
        """`inside`: documents in progress after it."""
        self._done.append((began, documents))
        if not inside:
            self._busy += now - self._since

    def documents_per_second(self, now: float, inside: int) -> float | None:
        if not self._done:
            return None
        seconds = self._busy_until(now, inside) - min(began for began, _ in self._done)
        return sum(documents for _, documents in self._done) / max(seconds, 0.1)
